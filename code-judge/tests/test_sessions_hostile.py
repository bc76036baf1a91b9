"""Hostile cells, one a promise: the states they came from, other sessions and the service are out of their reach."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_harness import Judge, alive, descendants, judge, on_this_machine
from session_harness import Session, open_session
from test_forgery import ENDINGS, FORGED, RESERVED, WRITE_EVERYWHERE
from test_hostile import is_program

from code_judge.sandbox.privileges import STATES
from code_judge.sandbox.status import REST, REST_FAILED, STARTED

SECONDS = 1


@pytest.fixture(scope="module")
def target() -> Iterator[Judge]:
    with judge(MAX_EXECUTION_TIME=SECONDS, MAX_WORKERS=8) as it:
        yield it


@pytest.fixture
def session(target: Judge) -> Iterator[Session]:
    it = open_session(target)
    it.run("x = 'before'\nopen('f', 'w').write('before')")
    yield it
    target.http.delete(f"/session/{it.id}")


def unharmed(session: Session) -> None:
    """The session is where it was, and nothing of the last cell lives."""
    assert session.value("x, open('f').read()") == "('before', 'before')"
    assert programs(session.judge) == 1


def programs(target: Judge) -> int:
    """Processes of sessions, once the dead have been reaped."""
    end = time.monotonic() + 20
    while True:
        found = sum(alive(pid) and is_program(pid) for pid in descendants(target.process.pid))
        if found <= 1 or time.monotonic() > end:
            return found
        time.sleep(0.02)


KILLERS = {
    "parent": "os.kill(os.getppid(), 9)",
    "everything": "os.kill(-1, 9)",
    "its group": "os.killpg(0, 9)",
    "every process": "for p in range(1, 600):\n    if p != os.getpid(): attempt(os.kill, p, 9)",
    "every group": "for p in range(2, 600):\n    if p != os.getpid(): attempt(os.kill, -p, 9)",
    "every group, from inside": "for p in set(range(1, 600)) - {os.getpid()}:\n    try: os.setpgid(0, p)\n"
    "    except OSError: continue\n    os.killpg(0, 9)",
    "every thread": "import ctypes\nfor p in range(1, 600):\n"
    "    if p != os.getpid(): ctypes.CDLL(None).syscall(200, p, 9)",
    "descriptors": "for p in range(1, 600):\n    if p != os.getpid() and (d := attempt(os.pidfd_open, p)):\n"
    "        attempt(signal.pidfd_send_signal, d, 9)",
    "older descriptor": "attempt(signal.pidfd_send_signal, older, 9)",
    "older folder": "attempt(signal.pidfd_send_signal, folder, 9)",
    "in its memory": "for p in range(1, 600):\n    for mode in ('r+b', 'rb'):\n"
    "        if p not in (cell, os.getpid()) and attempt(open, f'/proc/{p}/mem', mode): print('open', flush=True)",
}
ATTEMPT = """
import os, signal
def attempt(call, *arguments):
    try: return call(*arguments)
    except (OSError, PermissionError): return None
"""


@pytest.mark.parametrize("name", KILLERS)
@pytest.mark.parametrize("child", [False, True], ids=["itself", "its child"])
def test_the_state_that_a_cell_came_from_is_out_of_reach(session: Session, name: str, child: bool) -> None:
    session.run(f"{ATTEMPT}\nolder = attempt(os.pidfd_open, os.getpid())\nfolder = os.open('/proc/self', os.O_RDONLY)")
    if name == "every thread":
        # The state's second one has a number of its own.
        session.run("import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()")
    lines = KILLERS[name].splitlines()
    body = "\n".join(f"        {line}" for line in lines) if child else KILLERS[name]
    attack = (
        f"if (pid := os.fork()) == 0:\n    try:\n{body}\n    finally: os._exit(0)\nos.waitpid(pid, 0)"
        if child
        else body
    )
    result = session.run(f"x, cell = 'after', os.getpid()\n{attack}\nprint('done')\nraise ValueError")
    assert "open" not in result["stdout"], result
    assert not result["committed"]
    unharmed(session)


LEFT_BEHIND = {
    "daemon": "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: time.sleep(1)\n"
    "    os._exit(0)\nos.wait()",
    "child": "if os.fork() == 0:\n    while True: pass",
    "bomb": "if os.fork() == 0:\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "moving bomb": "if os.fork() == 0:\n    while True:\n        try:\n            if os.fork(): os._exit(0)\n"
    "        except OSError: pass",
    "other program": "import subprocess\nsubprocess.Popen(['sleep', '100'], start_new_session=True)",
    "writer": "if os.fork() == 0:\n    while True: open('f', 'a').write('more')",
    "sibling": "import ctypes\nif ctypes.PyDLL(None).syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0:\n    while True: pass",
}


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_a_cell_leaves_behind_ends_with_it(session: Session, name: str) -> None:
    result = session.run(f"import os, time\n{LEFT_BEHIND[name]}\nprint('done')")
    assert (result["stdout"], result["committed"]) == ("done\n", True)
    assert programs(session.judge) == 1
    assert session.value("open('f').read() == open('f').read()") == "True"
    session.run(f"import os, time\n{LEFT_BEHIND[name]}\nraise ValueError")
    assert programs(session.judge) == 1


TOO_MUCH = {
    "output": ("import os\nwhile True: os.write(1, b'x' * 65536)", "output_limit"),
    "errors": ("import os\nwhile True: os.write(2, b'x' * 65536)", "output_limit"),
    "memory": ("y = []\nwhile True: y.append(bytearray(10**7))", "memory"),
    "memory in children": (
        "import os\nfor _ in range(4):\n    if os.fork() == 0:\n        y = b'x' * (90 << 20)\n"
        "        while True: pass\nos.wait()",
        "memory",
    ),
    "time": ("while True: pass", "timeout"),
    "time in a child": ("import os\nif os.fork() == 0:\n    while True: pass\nos.wait()", "timeout"),
    "disk": ("f = open('big', 'wb')\nwhile True: f.write(b'x' * 65536)", "OSError"),
    "files": ("for i in range(10**6): open(str(i), 'w').close()", "OSError"),
    "kept folders": ("import os\nfor i in range(100): os.mkdir('d'); os.chdir('d')", "files"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_limits_hold_and_what_went_beyond_is_gone(session: Session, name: str) -> None:
    code, kind = TOO_MUCH[name]
    start = time.monotonic()
    result = session.run(f"x = 'after'\n{code}")
    assert time.monotonic() - start < on_this_machine(SECONDS + 3)
    kinds = {kind, "MemoryError"} if kind == "memory" else {kind}
    assert (result["kind"] in kinds, result["committed"], result["reason"] != "internal_error") == (
        True,
        False,
        True,
    ), result
    unharmed(session)
    assert session.value("import os; os.listdir()") == "['f']"


def test_memory_that_short_cells_pile_up_is_limited(session: Session) -> None:
    session.run("y = []")
    results = [session.run("y.append(b'x' * (60 << 20))") for _ in range(6)]
    assert [result["kind"] for result in results if not result["committed"]][:1] in (["memory"], ["MemoryError"])
    assert int(session.value("len(y)")) <= 4


def test_files_that_cells_pile_up_are_limited(session: Session) -> None:
    """The folder stays small, the copies that snapshots hold do not."""
    results = []
    for n in range(6):
        session.call("snapshot")
        results.append(session.run(f"open('big', 'wb').write(b'{n}' * (30 << 20))"))
    # Four copies are below the limit, a fifth is not.
    assert [result["kind"] for result in results] == ["ok"] * 4 + ["files"] * 2
    assert [result["committed"] for result in results] == [True] * 4 + [False] * 2
    session.call("rollback", snapshot="s1")
    session.call("commit")
    unharmed(session)


def test_many_snapshots_are_limited(session: Session) -> None:
    """Each holds a process."""
    for n in range(STATES - 1):
        session.call("snapshot")
        session.run(f"z = {n}")
    status, detail = session.trouble("POST", "snapshot")
    assert (status, detail["error"]) == (429, "too_many_sessions")


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_bytes_on_any_descriptor_make_a_failed_cell_a_success(session: Session, ending: str) -> None:
    rests = [REST, REST_FAILED, STARTED, REST + bytes(16), STARTED + REST + bytes(16)]
    for data in [*FORGED.values(), *rests]:
        result = session.run(f"x = 'after'\n{WRITE_EVERYWHERE.format(data=data)}{ENDINGS[ending]}", commit="always")
        assert (result["run_success"], result["reason"]) == (False, ""), result
        assert result["kind"] not in ("", "ok", "timeout", "memory", "output_limit", "compile_error"), result
        if result["committed"]:
            # It was asked for, and the cell did come to rest after its exception.
            session.run("x = 'before'")
    unharmed(session)


@pytest.mark.parametrize("name", RESERVED)
def test_an_exception_cannot_take_a_reserved_name(session: Session, name: str) -> None:
    assert session.run(f"class {name}(Exception): pass\nraise {name}")["kind"] == "nonzero_exit"


@pytest.mark.parametrize(
    "trick",
    [
        "os.close(3)",
        "os.dup2(os.open('/dev/null', os.O_RDWR), 3)",
        "os.closerange(3, 256)",
        "import socket; socket.socket(fileno=3).shutdown(socket.SHUT_RDWR)",
        "os.set_blocking(3, False)\nfor _ in range(10**5):\n    try: os.write(3, b'x')\n    except OSError: break",
    ],
)
def test_a_cell_that_spoils_its_channel_has_failed(session: Session, trick: str) -> None:
    result = session.run(f"import os\nx = 'after'\n{trick}")
    assert (result["run_success"], result["committed"], result["reason"]) == (False, False, ""), result
    unharmed(session)


BROKEN = {
    "no forks": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))",
    "no fork": "from code_judge.sandbox import kernel\nkernel.fork_sibling = lambda: 1 / 0",
    "forks that wait": "from code_judge.sandbox import kernel\ndef wait():\n    while True: pass\n"
    "kernel.fork_sibling = wait",
    "itself as the fork": "import os\nfrom code_judge.sandbox import kernel\nkernel.fork_sibling = lambda: 0",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_session_that_breaks_its_own_process_has_ended_by_its_own_fault(target: Judge, name: str) -> None:
    it = open_session(target)
    it.run("x = 'before'")
    it.call("snapshot")
    spoiled = it.run(f"import sys\nsys.path.insert(0, '{Path(__file__).parents[1]}')\n{BROKEN[name]}")
    assert spoiled["reason"] == "", spoiled
    status, detail = it.trouble("POST", "run", code="print('on')")
    assert (status, detail["error"], detail["infrastructure"]) == (410, "session_ended", False)
    it.call("rollback")
    assert it.value("x") == "'before'"
    it.delete()
    assert open_session(target).value("1 + 1") == "2"


def test_a_session_can_neither_see_nor_reach_another(target: Judge, session: Session) -> None:
    other = open_session(target)
    other.run(
        "import os\nsecret = 'private'\nos.chmod('.', 0o777)\nopen('mine', 'w').write(secret)\nos.chmod('mine', 0o777)"
    )
    found = session.value(
        "import os, glob\nfound = []\n"
        "for box in range(1, 60):\n    if f'/box/{box}' == os.getcwd(): continue\n"
        "    for call in (lambda: open(f'/box/{box}/mine').read(), lambda: os.listdir(f'/box/{box}'),\n"
        "                 lambda: open(f'/box/{box}/planted', 'w')):\n"
        "        try: found.append(call())\n        except OSError: pass\n"
        "for pid in range(1, 600):\n    if pid != os.getpid():\n"
        "        try: os.kill(pid, 0); found.append(pid)\n        except OSError: pass\n"
        "print(found, [p for p in glob.glob('/proc/[0-9]*') if p != f'/proc/{os.getpid()}'])"
    )
    assert found == "[] []"
    assert other.value("secret, sorted(os.listdir())") == "('private', ['mine'])"
    other.delete()


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
        "open('/etc/shadow').read()",
        "import os; os.setuid(0)",
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "import os; os.listdir('/var')",
        "open('/box/planted', 'w')",
    ],
)
def test_the_walls_are_those_of_programs(session: Session, code: str) -> None:
    """PORT: of the service itself."""
    assert not session.run(code.replace("PORT", session.judge.url.rsplit(":", 1)[1]))["success"]


def test_stdin_is_empty_and_shared_with_nobody(target: Judge, session: Session) -> None:
    other = open_session(target)
    session.run("import os\nfor fd in (0, 1, 2):\n    try: os.write(fd, b'planted')\n    except OSError: pass")
    assert other.value("import sys; sys.stdin.read()") == "''"
    other.delete()


def test_nothing_of_a_session_is_left(target: Judge) -> None:
    before = set(descendants(target.process.pid))
    it = open_session(target)
    it.run("import os\nopen('a', 'w').write('x')")
    it.call("snapshot")
    it.run("x = 1")
    it.delete()
    end = time.monotonic() + 20
    while set(descendants(target.process.pid)) - before:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert open_session(target).value("import os; os.listdir()") == "[]"
