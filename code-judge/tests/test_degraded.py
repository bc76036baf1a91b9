"""Hosts that give less: every layer that is there is used, what is missing is said, and the service does its work."""

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from judge_harness import Judge, environment

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
HOSTS = {
    "plain container": ["setpriv", "--bounding-set=-sys_admin"],
    "no capabilities": ["setpriv", "--bounding-set=-all"],
    "unprivileged user": ["unshare", "-m", "sh", "-c", AS_NOBODY, "sh"],
}
PROMISES = {
    "seccomp": "import socket\ntry: socket.socket()\nexcept OSError: print('refused')",
    "landlock": "try: open('/etc/hostname'); print('read')\nexcept OSError: print('refused')",
    "no_new_privs": "print('refused' if 'NoNewPrivs:\\t1' in open('/proc/self/status').read() else 'given')",
}


@contextlib.contextmanager
def served_by(host: str, folder: Path) -> Iterator[Judge]:
    folder.chmod(0o777)
    command = [*HOSTS[host], sys.executable, "-B", "-m", "code_judge.cli", "serve", "--port", "0"]
    values = environment(MAX_EXECUTION_TIME=2, MAX_WORKERS=4, TMPDIR=folder)
    with subprocess.Popen(command, env=values, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0]
        line = process.stdout.readline()
        assert "serving on" in line, "it did not start"
        url = line.split()[-1]
        with httpx.Client(base_url=url, timeout=30) as http:
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
    layers = lesser.http.get("/status").json()["isolation"]
    assert {"seccomp", "landlock", "no_new_privs"} <= set(layers)
    assert not {"pid", "mount", "net", "ipc", "tmpfs", "uid"} <= set(layers)
    assert lesser.run("print(input())", input="hello")["stdout"] == "hello\n"
    assert [r["stdout"] for r in lesser.run_all([f"print({i})" for i in range(40)])] == [f"{i}\n" for i in range(40)]


@pytest.mark.parametrize("layer", PROMISES)
def test_the_layers_that_are_there_hold(lesser: Judge, layer: str) -> None:
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
