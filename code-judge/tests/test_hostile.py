"""Hostile submissions, one a promise. After each the service works on and nothing of the program is left."""

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_harness import Judge, descendants, judge, on_this_machine

SECONDS = 2
SECRET = "the-servers-secret"


@pytest.fixture(scope="module")
def target() -> Iterator[Judge]:
    with judge(MAX_EXECUTION_TIME=SECONDS, MAX_WORKERS=8, A_SECRET=SECRET) as it:
        yield it


@pytest.fixture(autouse=True)
def unharmed(target: Judge) -> Iterator[None]:
    yield
    assert target.run("print('well')")["stdout"] == "well\n"
    # Keeper and zygote of each flavour, and nothing else, once the dead are reaped.
    end = time.monotonic() + 20
    while any(is_program(pid) for pid in descendants(target.process.pid)):
        assert time.monotonic() < end, "a process of the program is left"
        time.sleep(0.02)


def is_program(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}").stat().st_uid >= 0x10000000
    except FileNotFoundError:
        return False


def layers(target: Judge) -> set[str]:
    return set(target.http.get("/status").json()["isolation"])


def need(target: Judge, *names: str) -> None:
    missing = set(names) - layers(target)
    if missing:
        pytest.skip(f"this host does not give {', '.join(sorted(missing))}")


def run(target: Judge, solution: str, *, within: float = SECONDS + 2.5, **more: Any) -> dict[str, Any]:
    start = time.monotonic()
    result = target.run(solution, **more)
    assert time.monotonic() - start < on_this_machine(within)
    assert result["reason"] != "internal_error", result
    return result


def test_root_has_all_layers(target: Judge) -> None:
    if os.geteuid() != 0 or os.environ.get("CODE_JUDGE_TEST_DEGRADED"):
        pytest.skip("not root")
    expected = {"pid", "mount", "net", "ipc", "tmpfs", "uid", "seccomp", "landlock", "no_new_privs"}
    # Which hosts give the layer cgroup is in the threat model.
    assert layers(target) - {"cgroup"} == expected


ENDLESS = {
    "ignored signals": "import signal\nfor s in (14, 24, 15, 2, 1): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    "alarm off": "import signal, time\nsignal.alarm(0)\nsignal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(100)",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "thread that never ends": "import threading\nthreading.Thread(target=lambda: threading.Event().wait()).start()",
    "in the exit handler": "import atexit, time\natexit.register(time.sleep, 100)",
    "regular expression": "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')",
    "big power": "print(len(str(7 ** (10 ** 9))))",
    "destructor": "class C:\n    def __del__(self):\n        while True: pass\nc = C()\ndel c",
    "waits for a child": "import os, time\nif os.fork() == 0:\n    time.sleep(100)\nos.wait()",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_time_is_limited(target: Judge, name: str) -> None:
    result = run(target, ENDLESS[name])
    assert result["reason"] == "worker_timeout"


@pytest.mark.parametrize(
    "solution",
    [
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import os\nwhile True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass",
        "import os\nfor _ in range(50):\n    if os.fork() == 0:\n        os.setsid()\n        while True: pass",
        "import threading, time\nfor _ in range(10**5): threading.Thread(target=time.sleep, args=(99,)).start()",
    ],
    ids=["fork bomb", "moving fork bomb", "sessions", "thread bomb"],
)
def test_bombs_of_processes(target: Judge, solution: str) -> None:
    run(target, solution)


@pytest.mark.parametrize("close", ["", "os.close(0); os.close(1); os.close(2)\n"])
def test_a_daemon_ends_with_its_program(target: Judge, close: str) -> None:
    solution = (
        f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        {close or 'pass'}\n"
    )
    solution += "        while True: time.sleep(1)\n    os._exit(0)\nos.wait()\nprint('done')"
    result = run(target, solution, within=1.5)
    assert (result["stdout"], result["run_success"]) == ("done\n", True)


@pytest.mark.parametrize(
    "solution",
    [
        "x = bytearray(10**10)",
        "x = []\nwhile True: x.append(bytearray(10**6))",
        "import resource\ns, h = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (h, h))\n"
        "x = []\nwhile True: x.append(bytearray(10**6))",
        "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 10**7))",
    ],
    ids=["at once", "bit by bit", "raised soft limit", "mappings"],
)
def test_memory_is_limited(target: Judge, solution: str) -> None:
    result = run(target, solution)
    assert not result["run_success"]
    assert result["kind"] in ("memory", "MemoryError", "OSError", "timeout", "nonzero_exit")


def test_recursion_without_end(target: Judge) -> None:
    """Memory or time runs out first."""
    assert not run(target, "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()")["run_success"]


def test_memory_of_all_processes_together_is_limited(target: Judge) -> None:
    need(target, "uid")
    solution = "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        x = bytearray(48 << 20)\n"
    solution += "        for i in range(0, len(x), 4096): x[i] = 1\n        time.sleep(100)\ntime.sleep(100)"
    with judge(MAX_MEMORY=64, MAX_EXECUTION_TIME=10) as it:
        result = run(it, solution, within=9)
    assert (result["kind"], result["run_success"]) == ("memory", False)


def test_a_raised_hard_limit_is_refused(target: Judge) -> None:
    solution = (
        "import resource as r\nfor n in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_NOFILE):\n"
        "    try: r.setrlimit(n, (r.RLIM_INFINITY, r.RLIM_INFINITY))\n    except ValueError: print('refused')"
    )
    need(target, "uid")
    assert run(target, solution)["stdout"] == "refused\n" * 4


@pytest.mark.parametrize("fd", [1, 2])
def test_a_gibibyte_of_output(target: Judge, fd: int) -> None:
    result = run(target, f"import os\nb = b'x' * 65536\nfor _ in range(16384): os.write({fd}, b)")
    assert (result["kind"], result["run_success"]) == ("output_limit", False)
    assert len(result["stdout"]) + len(result["stderr"]) < 2500


def test_output_forged_by_a_child_that_outlives_the_program(target: Judge) -> None:
    solution = (
        "import os\nprint('real', flush=True)\nif os.fork() == 0:\n    while True: os.write(1, b'x' * 100)\nos._exit(0)"
    )
    result = run(target, solution)
    assert result["stdout"].startswith("real\n")


@pytest.mark.parametrize(
    "solution",
    [
        "f = open('big', 'wb')\nwhile True: f.write(b'x' * (1 << 20)); f.flush()",
        "for i in range(10):\n    f = open(str(i), 'wb')\n    for _ in range(60): f.write(b'x' * (1 << 20)); f.flush()",
        "for i in range(10**6): open(str(i), 'w').close()",
        "import os\nfor i in range(10**5):\n    os.mkdir('d'); os.chdir('d')",
        "import os\nopen('a', 'w').close()\nfor i in range(10**6): os.link('a', str(i))",
    ],
    ids=["big file", "many big files", "inode bomb", "deep folders", "links"],
)
def test_files_are_limited(target: Judge, solution: str) -> None:
    need(target, "tmpfs")
    result = run(target, solution)
    assert not result["run_success"]
    assert target.run("import os; print(os.listdir())")["stdout"] == "['solution.py']\n"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/passwd-",
        "/root/.bashrc",
        "/var/log",
        "/home",
        "/etc/hostname",
        "/sys/kernel",
        "/proc/1/environ",
    ],
)
def test_the_hosts_files_are_out_of_sight(target: Judge, path: str) -> None:
    need(target, "mount", "landlock")
    solution = (
        f"import os\ntry:\n    print(os.listdir({path!r}) if os.path.isdir({path!r}) else open({path!r}).read())\n"
    )
    result = run(target, solution + "except OSError as e:\n    print('refused')")
    assert result["stdout"] == "refused\n"


def test_a_secret_beside_the_service_is_out_of_sight(target: Judge) -> None:
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(SECRET)
    os.chmod(file.name, 0o644)
    try:
        result = run(target, f"print(open({file.name!r}).read())")
        assert not result["run_success"]
    finally:
        os.unlink(file.name)


def test_the_servers_environment_and_command_lines(target: Judge) -> None:
    need(target, "pid")
    solution = (
        "import os, glob\nprint(dict(os.environ))\nfor p in glob.glob('/proc/*'):\n"
        "    for name in ('environ', 'cmdline', 'maps'):\n"
        "        try: print(open(f'{p}/{name}', errors='replace').read()[:300])\n        except OSError: pass"
    )
    result = run(target, solution)
    assert SECRET not in result["stdout"]
    assert "uvicorn" not in result["stdout"]
    environment = run(target, "import os; print(sorted(os.environ))")["stdout"]
    assert "A_SECRET" not in environment


def test_other_submissions_files_and_processes(target: Judge) -> None:
    need(target, "uid", "mount")
    writer = "import os, time\nopen('mine', 'w').write('private')\n"
    writer += "os.chmod('.', 0o777)\nos.chmod('mine', 0o777)\ntime.sleep(1.2)"
    reader = (
        "import os, time, glob, signal\ntime.sleep(0.4)\nfound = []\n"
        "for box in range(1, 40):\n    if f'/box/{box}' == os.getcwd(): continue\n"
        "    for f in (f'/box/{box}/mine', f'/box/{box}/solution.py'):\n"
        "        try: found.append(open(f).read())\n        except OSError: pass\n"
        "    try: found.append(os.listdir(f'/box/{box}'))\n    except OSError: pass\n"
        "    try: open(f'/box/{box}/planted', 'w'); found.append('planted')\n    except OSError: pass\n"
        "me = os.getpid()\nfor pid in range(1, 500):\n    if pid != me:\n"
        "        try: os.kill(pid, 0); found.append(pid)\n        except OSError: pass\n"
        "print(found, [p for p in glob.glob('/proc/[0-9]*') if p != f'/proc/{me}'])"
    )
    results = target.run_all([writer, reader, writer])
    assert [result["run_success"] for result in results] == [True] * 3
    assert results[1]["stdout"] == "[] []\n"


def test_nothing_outside_its_folder_can_be_written(target: Judge) -> None:
    need(target, "mount")
    solution = (
        "import os, sys\nwritten = []\n"
        "places = ['/', '/usr', '/usr/lib', '/etc', '/dev', '/proc', '/box', '/bin']\n"
        "for d in (*places, sys.prefix, os.path.dirname(os.__file__)):\n"
        "    try: open(d + '/x', 'w'); written.append(d)\n    except OSError: pass\n"
        "print(written)\nopen('ok', 'w').write('1')"
    )
    result = run(target, solution)
    assert (result["stdout"], result["run_success"]) == ("[]\n", True)


def test_writing_to_tmp_works_and_stays_private(target: Judge) -> None:
    need(target, "mount")
    if sys.prefix.startswith("/tmp/"):
        pytest.skip("the interpreter is below /tmp, which is read-only with it")
    assert run(target, "open('/tmp/a', 'w').write('x'); print(open('/tmp/a').read())")["stdout"] == "x\n"
    assert run(target, "import os; print(os.path.exists('/tmp/a'))")["stdout"] == "False\n"


def test_parents_and_siblings_cannot_be_killed(target: Judge) -> None:
    need(target, "pid", "uid")
    sleeper = "import time; time.sleep(1); print('lives')"
    killer = (
        "import os, signal, time\ntime.sleep(0.3)\n"
        "for pid in [os.getppid(), 1, *range(2, 300)]:\n    if pid != os.getpid():\n"
        "        try: os.kill(pid, signal.SIGKILL)\n        except OSError: pass\n"
        "try: os.killpg(os.getpgid(os.getppid()), 9)\nexcept OSError: pass\nos.kill(-1, signal.SIGKILL)"
    )
    results = target.run_all([sleeper, killer, sleeper])
    assert [results[i]["stdout"] for i in (0, 2)] == ["lives\n"] * 2


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"])
def test_no_network(target: Judge, family: str) -> None:
    need(target, "seccomp")
    solution = f"import socket\ntry:\n    socket.socket(socket.{family}, socket.SOCK_STREAM)\n"
    solution += "except OSError as e:\n    print(e.errno)"
    assert run(target, solution)["stdout"] == "1\n"


def test_the_judge_itself_and_a_local_server_cannot_be_reached(target: Judge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        ports = [server.getsockname()[1], int(target.url.rsplit(":", 1)[1])]
        solution = (
            "import urllib.request, subprocess, sys\n"
            f"for port in {ports}:\n"
            "    try: print(urllib.request.urlopen(f'http://127.0.0.1:{port}/ping', timeout=1).read())\n"
            "    except OSError: print('refused')\n"
            "print(subprocess.run([sys.executable, '-c', 'import socket; socket.create_connection((\"127.0.0.1\", "
            f"{ports[0]}))'], stderr=subprocess.DEVNULL).returncode)"
        )
        assert run(target, solution)["stdout"] == "refused\nrefused\n1\n"
        with pytest.raises(TimeoutError):
            server.accept()


SYSTEM_CALLS = {
    "ptrace": "syscall(101, 16, 1, 0, 0)",
    "ptrace traceme": "syscall(101, 0, 0, 0, 0)",
    "mount": "mount(b'none', b'.', b'tmpfs', 0, None)",
    "umount": "umount2(b'/proc', 2)",
    "chroot": "chroot(b'.')",
    "pivot_root": "syscall(155, b'.', b'.')",
    "unshare": "unshare(0x10000000)",
    "clone into a namespace": "syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "syscall(435, 0, 0)",
    "setns": "setns(0, 0)",
    "setuid": "setuid(0)",
    "setgid": "setgid(0)",
    "process_vm_readv": "syscall(310, 1, 0, 0, 0, 0, 0)",
    "bpf": "syscall(321, 0, 0, 0)",
    "perf": "syscall(298, 0, 0, 0, 0, 0)",
    "io_uring": "syscall(425, 1, 0)",
    "userfaultfd": "syscall(323, 0)",
    "keyctl": "syscall(250, 0, 0, 0, 0, 0)",
    "x32": "syscall(0x40000000 | 39)",
    "System V memory": "shmget(1, 4096, 0o1666)",
    "message queue": "msgget(1, 0o1666)",
    "clock": "syscall(227, 0, b'\\0' * 16)",
    "hostname": "sethostname(b'x', 1)",
    "reboot": "syscall(169, 0xfee1dead, 672274793, 0, 0)",
    "open by handle": "syscall(304, 0, 0, 0)",
    "mknod": "mknod(b'dev', 0o60666, 0x0800)",
    "seccomp off": "prctl(22, 0, 0, 0, 0)",
    "new privileges": "prctl(38, 0, 0, 0, 0)",
    "lower niceness": "setpriority(0, 0, -5)",
}


@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_system_calls_that_are_refused(target: Judge, name: str) -> None:
    need(target, "seccomp", "uid")
    result = run(target, f"import ctypes\nprint(ctypes.CDLL(None).{SYSTEM_CALLS[name]})")
    assert result["stdout"] == "-1\n"


def test_a_set_uid_program_gives_no_privileges(target: Judge) -> None:
    need(target, "uid")
    solution = "import os, subprocess\ndone = subprocess.run(['su', '-c', 'id'], capture_output=True)\n"
    solution += "print(done.returncode != 0, os.getuid() != 0)"
    result = run(target, solution)
    assert result["stdout"] == "True True\n" or "FileNotFoundError" in result["stderr"]


@pytest.mark.parametrize(
    "solution",
    [
        "import os\nos.symlink('/etc/shadow', 'x')\nos.chmod('.', 0o000)",
        "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)\nopen('other', 'w')",
        "import os\nos.unlink('solution.py')\nos.symlink('/etc/passwd', 'solution.py')",
        "import os\nos.unlink('solution.py')\nos.mkdir('solution.py')",
        "import os\nos.chmod('solution.py', 0)",
        "import os\nos.unlink('solution.py')\nos.mkfifo('solution.py')",
        "import os\nos.rename('solution.py', 'other')\nos.link('other', 'solution.py')",
        "import fcntl\nf = open('solution.py', 'r+')\nfcntl.flock(f, fcntl.LOCK_EX)\nf.truncate(10**6)",
        "import os\nos.setxattr('.', 'user.x', b'1')",
    ],
    ids=["locked", "removed", "symlink", "folder", "chmod", "fifo", "hard link", "lock", "attribute"],
)
def test_the_next_program_finds_a_fresh_folder(target: Judge, solution: str) -> None:
    run(target, solution)
    check = "import os\nsource = open('solution.py').read()\n"
    check += "print(os.listdir(), os.listxattr('.'), source.startswith('import os'), oct(os.stat('.').st_mode & 0o777))"
    results = target.run_all([check] * 12)
    assert {result["stdout"] for result in results} == {"['solution.py'] [] True 0o700\n"}


def test_strange_sources(target: Judge) -> None:
    assert run(target, "")["run_success"]
    assert run(target, "\n" * 100)["run_success"]
    assert not run(target, "\x00")["run_success"]
    assert run(target, "# -*- coding: latin-1 -*-\nprint('ok')")["stdout"] == "ok\n"
    assert run(target, "print('\\x00\\x7f\\u2028')")["stdout"] == "\x00\x7f\u2028\n"
    assert not run(target, "(" * 10_000)["run_success"]
    assert run(target, "x = [" + "1," * 20_000 + "]\nprint(len(x))", within=8)["stdout"] == "20000\n"
    big = "x = 1\n" + "# " + "x" * (10 << 20) + "\nprint('ok')"
    assert run(target, big, within=8)["stdout"] == "ok\n"


def test_invalid_utf_8_from_a_program(target: Judge) -> None:
    result = run(target, "import sys\nsys.stdout.buffer.write(b'a\\xff\\xfe\\xed\\xa0\\x80b')")
    assert result["stdout"].startswith("a\ufffd")
    assert result["run_success"]


def test_fifty_megabytes_of_stdin(target: Judge) -> None:
    text = "x" * (50 << 20)
    result = run(
        target,
        "import sys\nprint(sum(len(b) for b in iter(lambda: sys.stdin.buffer.read(1 << 16), b'')))",
        input=text,
        within=10,
    )
    assert result["stdout"] == f"{50 << 20}\n"
    assert run(target, "pass", input=text, within=10)["run_success"]


@pytest.mark.parametrize(
    "solution",
    [
        "import os; os._exit(7)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.abort()",
        "import os\nfor fd in range(256):\n    try: os.close(fd)\n    except OSError: pass\nraise ValueError",
        "raise SystemExit(1)",
        "import os; os.execv('/bin/false', ['false'])",
    ],
)
def test_every_way_to_die_is_a_verdict(target: Judge, solution: str) -> None:
    result = run(target, solution)
    assert (result["run_success"], result["success"], result["reason"]) == (False, False, "")
    assert result["kind"] not in ("", "ok")


def test_our_own_protocol_is_not_believed(target: Judge) -> None:
    """Markers on stdout, and a forged report on every descriptor that is open."""
    solution = (
        "import os\nprint('started', 'Suicide from timeout.', '{\"id\": 0, \"status\": 0}')\n"
        'report = b\'started\\n{"kind": "ok", "line": 1}\'\n'
        "for fd in range(3, 256):\n    try: os.write(fd, report)\n    except OSError: pass\n"
        "os._exit(1)"
    )
    result = run(target, solution)
    assert (result["run_success"], result["reason"]) == (False, "")
    assert result["kind"] != "timeout"


def test_only_its_own_descriptors_are_open_in_a_program(target: Judge) -> None:
    solution = (
        "import os\nfor fd in range(256):\n"
        "    try: print(fd, os.readlink(f'/proc/self/fd/{fd}').split(':')[0])\n    except OSError: pass"
    )
    need(target, "mount")
    assert run(target, solution)["stdout"] == "0 /memfd\n1 pipe\n2 pipe\n3 socket\n"


def test_programs_at_the_same_time_do_not_disturb_each_other(target: Judge) -> None:
    """Every kind of trouble at once, and between them programs that must come out right."""
    troubles = [*ENDLESS.values(), "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"]
    good = [f"print(sum(range({i})))" for i in range(20)]
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.extend(target.run_all(troubles)))
    thread.start()
    assert [r["stdout"] for r in target.run_all(good)] == [f"{sum(range(i))}\n" for i in range(20)]
    thread.join(300)
    assert all(not answer["run_success"] for answer in answers)
    assert len(answers) == len(troubles)


@pytest.mark.parametrize(
    ("required", "message"),
    [
        ("full", None),
        ("seccomp,landlock", None),
        ("full,user", "user (the service is root"),
        ("walls", "names 'walls'; the layers are"),
    ],
)
def test_required_isolation(required: str, message: str | None, target: Judge) -> None:
    if os.geteuid() != 0:
        pytest.skip("what is there depends on the host")
    import subprocess

    from judge_harness import command, environment

    if message is None:
        with judge(CODE_JUDGE_REQUIRE_ISOLATION=required) as it:
            assert it.run("print(1)")["success"]
        return
    arguments = command("serve", "--port", "0")
    values = environment(CODE_JUDGE_REQUIRE_ISOLATION=required)
    done = subprocess.run(arguments, env=values, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert message in done.stderr
