"""The same program, the same behaviour: what `python solution.py` does, byte for byte, but for paths and addresses.

The programs are in differential_programs.txt. Output, errors and exit status of each are compared with those of a plain
interpreter. What differs on purpose is listed in docs/judge-deployment.md under "As under python, except".
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from code_judge.programs import compiled_once
from code_judge.sandbox.link import ENVIRONMENT
from code_judge.sandbox.pool import Program, Sandbox

STDIN = "first line\nsecond ü line\nthird\n\n5 6\nlast"
SEPARATOR = "#=== "


def read_programs() -> dict[str, str]:
    """By name. A program ends without a newline, unless it has an empty line at its end."""
    text = Path(__file__).with_name("differential_programs.txt").read_text(encoding="utf-8")
    parts = (part.partition("\n") for part in ("\n" + text).split("\n" + SEPARATOR)[1:])
    return {name: source for name, _, source in parts}


PROGRAMS = read_programs()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    it = Sandbox()
    await it.start()
    yield it
    await it.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", PROGRAMS)
async def test_the_same_as_under_python(sandbox: Sandbox, name: str) -> None:
    source = PROGRAMS[name]
    if "uid" not in sandbox.layers:
        pytest.skip("the differences on lesser hosts are documented")
    program = Program(source, STDIN, 30, 512 << 20, 1 << 20)
    # As it runs alone, and as one of many tests.
    async with compiled_once(sandbox, program) as compiled:
        executions = [await sandbox.run(program), await sandbox.run(compiled)]
    expected = reference(source)
    for execution in executions:
        assert (plain(execution.stdout), plain(execution.stderr), execution.status) == expected
        assert execution.why is None
    first, second = executions
    assert (first.exception, first.line) == (second.exception, second.line)


def reference(source: str) -> tuple[str, str, int]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as stdin:
        path = Path(folder, "solution.py")
        path.write_bytes(source.encode())
        stdin.write(STDIN.encode())
        stdin.seek(0)
        environment = {name: value for name, value in ENVIRONMENT.items() if name != "LD_BIND_NOW"}
        done = subprocess.run(
            [sys.executable, "-s", "-X", "utf8", path.name],
            stdin=stdin,
            capture_output=True,
            cwd=folder,
            env={**environment, "HOME": folder, "TMPDIR": folder},
            umask=0o022,
            check=False,
        )
        texts = (
            plain(output.decode("utf-8", "replace").replace(folder, "/box/1")) for output in (done.stdout, done.stderr)
        )
        stdout, stderr = texts
        return stdout, stderr, done.returncode


def plain(text: str) -> str:
    """Without what differs from run to run: paths of the program's folder, addresses, times."""
    text = re.sub(r"/box/\d+/|/tmp/(?=solution)", "", text)
    text = re.sub("0x[0-9a-f]{8,}", "0x...", text)
    text = re.sub(r"Ran 1 test in [0-9.]+s", "Ran 1 test", text)
    text = re.sub(r"timed out after [0-9.]+ seconds", "timed out", text)
    return re.sub(r"Thread-\d+", "Thread-1", text)
