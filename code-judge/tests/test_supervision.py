"""Parts of the sandbox that stop, die or cannot start a process: the service notices, says so, and goes on."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from judge_harness import EXTRA, Judge, alive, descendants, environment, judge

from code_judge.sandbox import link, parcel, processes, program_end, warden
from code_judge.sandbox.box import Box
from code_judge.sandbox.limits import Clock
from code_judge.sandbox.watch import Job

pytestmark = pytest.mark.waits


def keeper(it: Judge) -> int:
    return children(it.process.pid)[0]


def zygote(it: Judge) -> int:
    return children(keeper(it))[0]


def template(it: Judge) -> int:
    """The first child of the zygote, before any program."""
    return min(children(zygote(it)))


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return sorted(found)


def await_recovery(it: Judge, seconds: float) -> float:
    """Seconds until a program has a verdict again; each try before must be our failure."""
    start = time.monotonic()
    while True:
        result = it.run("print(1)")
        if result["success"]:
            return time.monotonic() - start
        assert result["reason"] == "internal_error", result
        assert time.monotonic() - start < seconds
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("part", [keeper, zygote, template])
def test_a_part_that_stops_or_dies_is_replaced(part: Callable[[Judge], int], number: signal.Signals) -> None:
    with judge(MAX_WORKERS=4, MAX_EXECUTION_TIME=2) as it:
        assert it.run("print(1)")["success"]
        before = descendants(it.process.pid)
        os.kill(part(it), number)
        await_recovery(it, link.SILENCE_SECONDS + 20)
        if not (part is keeper and number == signal.SIGSTOP):
            # The keeper has nothing to do before the end, and is missed only then.
            end = time.monotonic() + 30
            while any(alive(pid) for pid in before):
                assert time.monotonic() < end, "something of the old sandbox is left"
                time.sleep(0.1)


def test_a_stopped_zygote_frees_its_slots_and_does_not_hold_up_the_others() -> None:
    with judge(MAX_WORKERS=4, MAX_EXECUTION_TIME=30) as it:
        assert it.run("import numpy; print(1)")["success"]
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(it.run("import time; time.sleep(25)"))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 20
        while it.http.get("/status").json()["busy"] < 2:
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(zygote(it), signal.SIGSTOP)
        # Another flavour's zygote serves on.
        assert it.run("import numpy; print(1)")["success"]
        for thread in threads:
            thread.join(link.SILENCE_SECONDS + 15)
        assert [answer["reason"] for answer in answers] == ["internal_error"] * 2
        await_recovery(it, 20)


def test_what_kills_a_programs_rest_has_ended_before_its_user_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It kills all that the user has. A late one must not meet the process that fetches files, nor the next program."""
    rest, killed, begun, told, put_back = [7], [], [], [], []
    monkeypatch.setattr(processes, "children", lambda spare: list(rest))
    monkeypatch.setattr(processes, "kill_user", lambda uid, _: killed.append(uid) or 100 + len(killed))
    monkeypatch.setattr(parcel, "start", lambda *_: begun.append(True) or 50)
    monkeypatch.setattr(program_end, "_belongs", lambda *_: True)
    job = Job(1, 6, Box("/box/1", 1, True), Clock(limit=1, start=0.0, seen=0.0), 1, True)
    job.end, job.fetch = time.monotonic(), os.memfd_create("test")
    it = object.__new__(warden.Warden)
    it._layers, it._running, it._own, it._ended = SimpleNamespace(killer_uid=2), {}, set(), [job]
    it._tell_end, it._put_back = told.append, put_back.append
    it._report()
    job.next_sweep = 0.0
    it._report()
    assert (killed, it._own) == ([1], {101})
    rest.clear()
    it._report()
    assert (begun, told, put_back) == ([], [], [])
    it._own.discard(101)
    it._report()
    assert (begun, told, put_back) == ([True], [], [])
    # What turns up while files are fetched is killed afterwards.
    rest.append(8)
    job.next_sweep = 0.0
    it._report()
    assert killed == [1]
    it._own.discard(50)
    it._report()
    assert killed == [1, 1]
    rest.clear()
    it._own.discard(102)
    it._report()
    assert (told, put_back, it._ended) == ([job], [job.box], [])


def test_ping_runs_a_program_and_fails_when_none_can_run() -> None:
    with judge(MAX_WORKERS=4, MAX_EXECUTION_TIME=2) as it:
        assert it.http.get("/ping").json() == "pong"
        assert it.http.get("/ready").json() == {"ready": True}
        os.kill(zygote(it), signal.SIGSTOP)
        statuses = set()
        end = time.monotonic() + link.SILENCE_SECONDS + 10
        while time.monotonic() < end and 503 not in statuses:
            statuses.add(it.http.get("/ping").status_code)
            time.sleep(0.2)
        assert 503 in statuses
        end = time.monotonic() + 30
        while it.http.get("/ping").status_code != 200 or it.http.get("/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.2)


LIMITED = """
import os, sys
path = sys.argv[1]
open(path + "/cgroup.procs", "w").write(str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def few_processes() -> Any:
    """A control group that allows few processes."""
    base = next(
        (p for p in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if (p / "cgroup.procs").exists()), None
    )
    group = None if base is None else base / f"code-judge-test-{os.getpid()}"
    try:
        if group is None:
            raise OSError
        group.mkdir()
        (group / "pids.max").write_text("60")
    except OSError:
        pytest.skip("this host lets us make no control group with a limit on processes")
    yield group
    end = time.monotonic() + 10
    while (group / "cgroup.procs").read_text() and time.monotonic() < end:
        time.sleep(0.1)
    group.rmdir()


def test_a_fork_bomb_under_a_limit_on_processes_harms_no_other_program(few_processes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(few_processes), sys.executable, "-m", "code_judge.cli", "serve"]
    values = environment(MAX_WORKERS=4, MAX_EXECUTION_TIME=2)
    port_file = tmp_path / "url"
    process = subprocess.Popen([*command, "--port", "0", "--port-file", str(port_file)], env=values)
    try:
        end = time.monotonic() + 60
        while not port_file.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        with httpx.Client(base_url=port_file.read_text().strip(), timeout=120, headers=EXTRA) as http:
            body = {
                "type": "python",
                "solution": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
            }
            batch = {"type": "batch", "submissions": [body] * 3}
            bombs = threading.Thread(target=lambda: http.post("/run/long-batch", json=batch))
            bombs.start()
            time.sleep(0.3)
            results = [http.post("/run", json={"type": "python", "solution": f"print({n})"}).json() for n in range(20)]
            bombs.join()
            results += [http.post("/run", json={"type": "python", "solution": f"print({n})"}).json() for n in range(20)]
        wrong = [result for result in results if not result["success"]]
        # Where no process can be started, that is our failure and said so; none is a verdict.
        assert all(result["reason"] == "internal_error" for result in wrong), wrong
        assert not [result for result in results[20:] if not result["success"]]
        assert len(wrong) < 10, wrong
    finally:
        process.terminate()
        process.wait(30)


def test_a_zygote_that_is_lost_before_anybody_waits_for_a_program_is_no_error_of_asyncio() -> None:
    complaints: list[dict[str, Any]] = []

    async def lose() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        lost = link.Link("bare")
        await lost.ready()
        ended = lost.begin(1, lambda _: None, 10)
        lost.close()
        assert ended.done()
        del ended
        lost.forget(1)
        gc.collect()
        await lost.cleaned

    asyncio.run(lose())
    assert complaints == []
