"""Hosts that give less: every layer that is there is used, what is missing is said, and the service does its work."""

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from judge_harness import EXTRA, Judge, environment, on_this_machine

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can give up what others lack"
)
PREFIX = Path(sys.base_prefix).resolve()
# A user who may read the interpreter, wherever it is: its home's rights do not matter in a mount of our own.
AS_NOBODY = f"""
set -e
mount --make-rprivate /
keep=$(mktemp -d); mount --bind {PREFIX} $keep
top=/$(echo {PREFIX} | cut -d/ -f2)
[ $top = /usr ] || {{ mount -t tmpfs -o mode=755 none $top; mkdir -p {PREFIX}; mount --bind $keep {PREFIX}; }}
umount $keep; rmdir $keep
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""
PLAIN, NONE = ["setpriv", "--bounding-set=-sys_admin"], ["setpriv", "--bounding-set=-all"]
NOBODY = ["unshare", "-m", "sh", "-c", AS_NOBODY, "sh"]
HOSTS: dict[str, tuple[list[str], str | None]] = {
    "plain container": (PLAIN, None),
    "no capabilities": (NONE, None),
    "unprivileged user": (NOBODY, None),
    # Older kernels have no Landlock that keeps signals inside, and times of files that are coarse.
    "root, Linux 5.15": ([], "5.15"),
    "no capabilities, Linux 6.1": (NONE, "6.1"),
    "unprivileged user, Linux 5.15": (NOBODY, "5.15"),
    "unprivileged user, Linux 6.8": (NOBODY, "6.8"),
    # No Landlock at all.
    "unprivileged user, Linux 5.10": (NOBODY, "5.10"),
}
PROMISES = {
    "seccomp": "import socket\ntry: socket.socket()\nexcept OSError: print('refused')",
    "landlock": "try: open('/etc/hostname'); print('read')\nexcept OSError: print('refused')",
    "no_new_privs": "print('refused' if 'NoNewPrivs:\\t1' in open('/proc/self/status').read() else 'given')",
}


@contextlib.contextmanager
def served_by(host: str, folder: Path) -> Iterator[Judge]:
    folder.chmod(0o777)
    prefix, kernel = HOSTS[host]
    command = [*prefix, sys.executable, "-B", "-m", "code_judge.cli", "serve", "--port", "0"]
    values = environment(MAX_EXECUTION_TIME=2, MAX_WORKERS=len(SIGNALS) + 2, TMPDIR=folder)
    if kernel is not None:
        values["CODE_JUDGE_IMITATE_KERNEL"] = kernel
    with subprocess.Popen(command, env=values, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0]
        line = process.stdout.readline()
        assert "serving on" in line, "it did not start"
        url = line.split()[-1]
        with httpx.Client(base_url=url, timeout=300, headers=EXTRA) as http:
            yield Judge(url, process, http)
        process.terminate()


@pytest.fixture(scope="module", params=HOSTS)
def lesser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    folder = Path("/tmp") / f"code-judge-test-{os.getpid()}"
    folder.mkdir()
    try:
        with served_by(request.param, folder) as it:
            yield it
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)


def test_it_runs_and_says_what_is_missing(lesser: Judge) -> None:
    layers = layers_of(lesser)
    assert {"seccomp", "no_new_privs"} <= layers
    assert lesser.run("print(input())", input="hello")["stdout"] == "hello\n"
    assert [r["stdout"] for r in lesser.run_all([f"print({i})" for i in range(40)])] == [f"{i}\n" for i in range(40)]


def layers_of(it: Judge) -> set[str]:
    return set(it.http.get("/status").json()["isolation"])


def test_what_a_host_gives(lesser: Judge, request: pytest.FixtureRequest) -> None:
    host = request.node.callspec.params["lesser"]
    layers = layers_of(lesser)
    assert ("landlock" in layers) is ("5.10" not in host)
    if not host.startswith("plain"):
        # There it depends on whether others may read the interpreter.
        assert ("uid" in layers) is host.startswith("root")
    assert ("mount" in layers) is host.startswith(("root", "unprivileged"))


@pytest.mark.parametrize("layer", PROMISES)
def test_the_layers_that_are_there_hold(lesser: Judge, layer: str) -> None:
    if layer not in layers_of(lesser):
        pytest.skip(f"this host does not give {layer}")
    result = lesser.run(PROMISES[layer])
    assert result["stdout"] == "refused\n" or "PermissionError" in result["stderr"], result


def test_limits_hold(lesser: Judge) -> None:
    assert lesser.run("while True: pass")["reason"] == "worker_timeout"
    assert lesser.run("x = bytearray(b'x' * (1 << 30))")["kind"] == "memory"
    assert lesser.run("while True: print('x' * 1000)")["kind"] == "output_limit"


def test_a_program_leaves_nothing(lesser: Judge) -> None:
    solution = "import os, time\nopen('left', 'w').write('x')\nif os.fork() == 0:\n"
    solution += "    os.setsid()\n    time.sleep(60)\nprint(1)"
    assert lesser.run(solution)["stdout"] == "1\n"
    results = lesser.run_all(["import os; print(os.listdir())"] * 8)
    assert {result["stdout"] for result in results} == {"['solution.py']\n"}


# Each way to signal process `pid`; SIGKILL, or what comes near it.
SIGNALS = {
    "kill": "os.kill(pid, 9)",
    "stop": "os.kill(pid, 19)",
    "interrupt": "os.kill(pid, 2)",
    "group": "os.killpg(pid, 9)",
    "all": "os.kill(-1, 9)",
    "tgkill": "syscall(234, pid, pid, 9)",
    "tkill": "syscall(200, pid, 9)",
    "queue": "syscall(129, pid, 9, info)",
    "pidfd": "signal.pidfd_send_signal(os.pidfd_open(pid), 9)",
    "folder as pidfd": "signal.pidfd_send_signal(os.open(f'/proc/{pid}', os.O_RDONLY | os.O_DIRECTORY), 9)",
    "owner of a pipe": (
        "(lambda r, w: (fcntl.fcntl(r, 8, pid), fcntl.fcntl(r, 10, 9), fcntl.fcntl(r, 4, 0o20000), os.write(w, b'x')))"
        "(*os.pipe())"
    ),
    "limit of CPU time": "resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0))",
    "limit of files": "resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0))",
    "limit of memory": "resource.prlimit(pid, resource.RLIMIT_AS, (0, 0))",
    "affinity": "os.sched_setaffinity(pid, [])",
    "idle class": "os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))",
    "memory": "open(f'/proc/{pid}/mem', 'r+b').write(b'x')",
    "descriptors": "os.open(f'/proc/{pid}/fd/3', os.O_RDWR)",
}
ATTACK = """
import ctypes, fcntl, os, resource, signal, time
syscall, info = ctypes.CDLL(None).syscall, ctypes.create_string_buffer(128)
time.sleep(0.5)
around = os.getpid()
targets = [1, 2, 3, os.getppid(), *range(max(4, around - 60), around + 60)]
for pid in targets:
    if pid not in (0, around):
        try: {attack}
        except (OSError, ValueError, OverflowError): pass
print('done')
"""
SLEEPER = "import time\ntime.sleep(1.6)\nprint('lives')"


@pytest.mark.alone
def test_no_program_can_end_stop_or_slow_down_another(lesser: Judge) -> None:
    """Neither one that runs beside it, nor the sandbox. All ways at once, and against one another."""
    attacks = {way: ATTACK.format(attack=attack) for way, attack in SIGNALS.items()}
    for attack in attacks.values():
        compile(attack, "it parses", "exec")
    results = lesser.run_all([SLEEPER, *attacks.values(), SLEEPER])
    assert [results[place]["stdout"] for place in (0, -1)] == ["lives\n"] * 2, results
    ends = dict(zip(attacks, results[1:-1], strict=True))
    assert {way: (end["reason"], end["stdout"]) for way, end in ends.items()} == dict.fromkeys(attacks, ("", "done\n"))
    start = time.monotonic()
    assert lesser.run("print(1)")["success"]
    assert time.monotonic() - start < on_this_machine(1)


def test_a_program_has_no_capabilities(lesser: Judge) -> None:
    """Effective, permitted and inheritable sets; in a program that it executes, too."""
    show = "import ctypes, struct\ndata = ctypes.create_string_buffer(24)\n"
    show += "ctypes.CDLL(None).capget(struct.pack('Ii', 0x20080522, 0), data)\nprint(data.raw == bytes(24))"
    for solution in (show, f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {show!r}])"):
        assert lesser.run(solution)["stdout"] == "True\n"


MARK = "import os\ntry:\n    {attempt}\nexcept OSError:\n    pass\nos._exit(1)"


@pytest.mark.parametrize(
    "attempt",
    [
        "os.read(os.open('/proc/self/fd/3', os.O_RDONLY | os.O_NONBLOCK), 100)",
        "os.ftruncate(os.open('/proc/self/fd/3', os.O_RDWR), 0)",
        "os.set_blocking(3, False); os.read(3, 100)",
    ],
)
def test_the_report_cannot_be_taken_back(lesser: Judge, attempt: str) -> None:
    result = lesser.run(MARK.format(attempt=attempt))
    assert (result["run_success"], result["reason"]) == (False, ""), result


@pytest.mark.parametrize(
    "plant",
    [
        "open('planted', 'w').close()",
        "os.mkdir('planted')",
        "os.chmod('.', 0o777)",
        "os.symlink('/etc/passwd', 'planted')",
        "os.rename('solution.py', 'x'); os.link('x', 'solution.py'); os.unlink('x')",
    ],
)
def test_what_is_planted_within_a_clock_tick_does_not_reach_the_next_program(lesser: Judge, plant: str) -> None:
    # As fast as can be, so that it happens in the tick in which the folder was made.
    planter = f"import os\n{plant}\nos._exit(0)"
    show = "import os\nprint(os.listdir(), oct(os.stat('.').st_mode & 0o777), os.stat('solution.py').st_nlink)"
    results = lesser.run_all([planter, show] * 20)
    assert {result["stdout"] for result in results[1::2]} == {"['solution.py'] 0o700 1\n"}


def test_a_fork_bomb_comes_to_its_end(lesser: Judge) -> None:
    bomb = "import os\nwhile True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass"
    result = lesser.run(bomb)
    assert result["reason"] in ("", "worker_timeout")
    for _ in range(5):
        assert lesser.run("import os\npid = os.fork()\nif pid: os.wait(); print(1)")["stdout"] == "1\n"


def test_a_program_that_makes_itself_unreadable_is_counted_all_the_same(lesser: Judge) -> None:
    solution = "import ctypes, time\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\nx = bytearray(600 << 20)\ntime.sleep(60)"
    assert lesser.run(solution)["kind"] == "memory"


def test_sessions_run_with_all_layers_that_they_need_or_are_refused(lesser: Judge) -> None:
    reply = lesser.http.post("/session")
    missing = {"pid", "mount", "tmpfs", "uid", "seccomp"} - layers_of(lesser)
    if missing:
        assert (reply.status_code, reply.json()["detail"]["error"]) == (501, "sessions_unavailable")
        assert all(layer in reply.json()["detail"]["message"] for layer in missing)
        return
    session = reply.json()["session"]
    assert lesser.post(f"/session/{session}/run", code="x = 1")["committed"]
    assert not lesser.post(f"/session/{session}/run", code="x = 2\n1 / 0")["committed"]
    assert lesser.post(f"/session/{session}/run", code="x")["stdout"] == "1\n"
