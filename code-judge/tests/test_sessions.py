"""Sessions: cells share an interpreter and a folder; each is kept or thrown away, as a whole."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from judge_harness import Judge, judge
from session_harness import Session, open_session
from test_supervision import children


@pytest.fixture
def session(holder: Judge) -> Iterator[Session]:
    it = open_session(holder)
    yield it
    holder.http.delete(f"/session/{it.id}")


def test_cells_share_variables_imports_definitions_and_files(session: Session) -> None:
    session.run("import json\nx = [1]\ndef f(n):\n    return n * x[0]\nopen('data', 'w').write('kept')")
    session.run("x[0] = 20")
    assert session.value("json.dumps([f(2), open('data').read()])") == repr('[40, "kept"]')


def test_the_last_expression_is_echoed_unless_told_otherwise(session: Session) -> None:
    assert session.run("x = 6\nx * 7")["stdout"] == "42\n"
    assert session.run("x * 7", echo=False)["stdout"] == ""
    assert session.run("None")["stdout"] == ""


def test_a_failed_cell_leaves_nothing(session: Session) -> None:
    session.run("import os\nx = 1\nopen('a', 'w').write('old')\nhandle = open('a', 'r+')")
    failed = session.run(
        "x = 2\ny = 3\nos.mkdir('d')\nos.chdir('d')\nopen('../a', 'w').write('new')\nos.symlink('a', 'l')\n"
        "handle.seek(2)\nos.environ['E'] = 'e'\n1 / 0"
    )
    assert (failed["kind"], failed["line"], failed["committed"]) == ("ZeroDivisionError", 9, False)
    value = session.value(
        "x, 'y' in dir(), os.listdir(), open('a').read(), handle.read(), 'E' in os.environ, os.getcwd().count('/')"
    )
    assert value == "(1, False, ['a'], 'old', 'old', False, 2)"


def test_commit_always_keeps_what_a_failed_cell_did_and_never_keeps_nothing(session: Session) -> None:
    session.run("x = 1")
    result = session.run("x = 2\nraise ValueError('v')", commit="always")
    assert (result["success"], result["kind"], result["committed"]) == (False, "ValueError", True)
    assert session.value("x") == "2"
    result = session.run("x = 3\nx", commit="never")
    assert (result["success"], result["stdout"], result["committed"]) == (True, "3\n", False)
    assert session.value("x") == "2"


@pytest.mark.parametrize(
    ("code", "kind", "committed"),
    [
        ("import sys; sys.exit()", "ok", True),
        ("import sys; sys.exit(3)", "nonzero_exit", False),
        ("import os; os._exit(0)", "exited", False),
        ("import os; os.kill(os.getpid(), 9)", "nonzero_exit", False),
        ("while True: pass", "timeout", False),
        ("import time; time.sleep(100)", "timeout", False),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timeout", False),
        ("print('x' * (2 << 20))", "output_limit", False),
        ("def f(:", "SyntaxError", False),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", False),
        ("raise type('ok', (Exception,), {})", "nonzero_exit", False),
    ],
)
def test_how_cells_end(session: Session, code: str, kind: str, committed: bool) -> None:
    session.run("x = 1")
    result = session.run(f"x = 2\n{code}")
    assert (result["kind"], result["committed"], result["run_success"]) == (kind, committed, kind == "ok")
    assert session.value("x") == ("2" if committed else "1")


def test_tracebacks_show_the_lines_of_earlier_cells(session: Session) -> None:
    session.run("def f():\n    raise ValueError('v')")
    result = session.run("\nf()")
    assert result["line"] == 2
    assert '<cell 1>", line 2, in f\n    raise ValueError' in result["stderr"]


def test_snapshot_and_rollback_go_over_several_cells(session: Session) -> None:
    session.run("x = 1; open('f', 'w').write('one')")
    assert session.call("snapshot") == {"snapshot": "s1"}
    session.run("x = 2; open('f', 'w').write('two')")
    assert session.call("snapshot") == {"snapshot": "s2"}
    session.run("x = 3; open('g', 'w').write('three')")
    look = "import os; print(x, open('f').read(), sorted(os.listdir()))"
    assert session.call("rollback") == {"snapshot": "s2"}
    assert session.value(look) == "2 two ['f']"
    assert session.call("rollback", snapshot="s1") == {"snapshot": "s1"}
    assert session.value(look) == "1 one ['f']"
    # s2 was later than s1 and went with it; s1 stays.
    assert session.trouble("POST", "rollback", snapshot="s2")[1]["error"] == "unknown_snapshot"
    session.run("x = 4")
    session.call("rollback")
    assert session.value("x") == "1"
    assert session.call("snapshot", replace=True) == {"snapshot": "s3"}
    assert session.judge.http.get(f"/session/{session.id}").json()["snapshots"] == ["s3"]
    session.call("commit")
    assert session.trouble("POST", "rollback")[0] == 404
    assert session.value("x") == "1"


def test_a_branch_goes_its_own_way(session: Session) -> None:
    session.run("x = 1; open('f', 'w').write('one')")
    other = session.branch()
    session.run("x += 1; open('f', 'a').write(' session')")
    other.run("x += 10; open('f', 'a').write(' branch')")
    assert session.value("print(x, open('f').read())") == "2 one session"
    assert other.value("print(x, open('f').read())") == "11 one branch"
    session.delete()
    assert other.value("x") == "11"
    other.delete()


def test_random_numbers_go_on_and_differ_between_sessions(holder: Judge, session: Session) -> None:
    other = open_session(holder)
    draw = "import random\nrandom.random()"
    assert session.value(draw) != other.value(draw)
    session.run("random.seed(1)")
    other.run("random.seed(1)\nrandom.random()")
    session.value("random.random()")
    assert session.value("random.random()") == other.value("random.random()")
    other.delete()


def test_threads_of_a_cell_end_with_it_and_daemons_do_not_go_on(session: Session) -> None:
    session.run(
        "import threading, time\nx = []\nthreading.Thread(target=lambda: (time.sleep(.2), x.append(1))).start()"
    )
    assert session.value("x") == "[1]"
    session.run(
        "def tick():\n    while True: x.append(2); time.sleep(.01)\nthreading.Thread(target=tick, daemon=True).start()"
    )
    assert session.value("n = len(x); time.sleep(.1); len(x) - n, threading.active_count()") == "(0, 1)"
    assert session.value("t = threading.Thread(target=print, args=('again',)); t.start(); t.join()") == "again"


def test_an_alarm_does_not_reach_the_next_cell(session: Session) -> None:
    session.run("import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.1)")
    time.sleep(0.2)
    assert session.value("time.sleep(.1); 5") == "5"


def test_the_same_run_id_runs_once(session: Session) -> None:
    session.run("x = 0")
    first = session.run("x += 1\nx", run_id="a")
    assert session.run("x += 1\nx", run_id="a") == first
    assert session.value("x") == "1"


def test_parallel_calls_run_one_after_the_other(session: Session) -> None:
    session.run("x = 0")
    threads = [
        threading.Thread(target=session.run, args=("y = x\nimport time\ntime.sleep(.02)\nx = y + 1",)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.value("x") == "8"


def test_a_caller_that_leaves_stops_its_cell_and_takes_its_effects_back(session: Session) -> None:
    session.run("x = 1")
    with pytest.raises(httpx.ReadTimeout):
        session.judge.http.post(f"/session/{session.id}/run", json={"code": "x = 2\nwhile True: pass"}, timeout=0.5)
    assert session.value("x") == "1"
    # Its limit is 2 s.
    assert session.judge.http.get(f"/session/{session.id}").json()["cpu"] < 1.5


def test_a_caller_that_comes_back_after_its_cell_was_stopped_runs_it_anew(session: Session) -> None:
    session.run("x = 1")
    code = "import time\ntime.sleep(1)\nx += 1\nx"
    with pytest.raises(httpx.ReadTimeout):
        session.judge.http.post(f"/session/{session.id}/run", json={"code": code, "run_id": "a"}, timeout=0.5)
    result = session.run(code, run_id="a")
    assert (result["kind"], result["stdout"]) == ("ok", "2\n")


def test_a_cell_stops_only_when_all_its_callers_have_left(session: Session) -> None:
    session.run("x = 1")
    code = "import time\ntime.sleep(1)\nx += 1\nx"
    path, body = f"/session/{session.id}/run", {"code": code, "run_id": "a"}
    results: list[httpx.Response] = []
    patient = threading.Thread(target=lambda: results.append(httpx.post(f"{session.judge.url}{path}", json=body)))
    patient.start()
    with pytest.raises(httpx.ReadTimeout):
        session.judge.http.post(path, json=body, timeout=0.5)
    patient.join()
    assert results[0].json()["stdout"] == "2\n"
    assert session.value("x") == "2"


def test_deleted_and_unknown_sessions(holder: Judge) -> None:
    it = open_session(holder)
    it.delete()
    for unknown in (it, Session(holder, "nonsense")):
        status, detail = unknown.trouble("POST", "run", code="1")
        assert (status, detail["error"]) == (404, "unknown_session")
        assert (detail["retriable"], detail["infrastructure"]) == (False, True)
    status, detail = Session(holder, "0" * 32).trouble()
    assert (status, detail["error"]) == (410, "session_lost")


def test_requests_that_make_no_sense(holder: Judge, session: Session) -> None:
    assert session.trouble("POST", "run", code="1", commit="maybe")[0] == 422
    assert session.trouble("POST", "run", code="1", commits="always")[0] == 422
    assert session.trouble("PUT")[0] == 405
    assert session.trouble("POST", "fly")[0] == 404
    assert holder.http.post("/session", json={"warm": "pandas"}).status_code == 422


def test_idle_sessions_expire_and_their_number_is_limited() -> None:
    with judge(MAX_SESSIONS=2, SESSION_TTL=30) as it:
        idle, busy = open_session(it, ttl=2), open_session(it)
        reply = it.http.post("/session")
        assert (reply.status_code, reply.json()["detail"]["error"]) == (429, "too_many_sessions")
        assert reply.json()["detail"]["retriable"]
        end = time.monotonic() + 20
        while it.http.get("/session").json() == {"sessions": 2}:
            assert time.monotonic() < end
            time.sleep(0.05)
        status, detail = idle.trouble("POST", "run", code="1")
        assert (status, detail["error"], detail["retriable"]) == (410, "session_expired", False)
        assert detail["infrastructure"]
        assert busy.value("1 + 1") == "2"
        open_session(it)


def test_a_session_that_the_sandbox_loses_is_our_outage() -> None:
    with judge(MAX_EXECUTION_TIME=2) as it:
        session = open_session(it)
        session.run("x = 1")
        keepers = children(it.process.pid)
        os.kill(children(keepers[-1])[0], signal.SIGKILL)
        end = time.monotonic() + 20
        while (reply := it.http.post(f"/session/{session.id}/run", json={"code": "x"})).status_code == 200:
            assert time.monotonic() < end
        detail = reply.json()["detail"]
        assert (reply.status_code, detail["error"], detail["infrastructure"]) == (410, "session_lost", True)
        assert open_session(it).value("1 + 1") == "2"
