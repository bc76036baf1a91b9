"""What sessions cost: CPU and rate of a cell `x += 1` over HTTP, and memory of sessions that are idle.

    python -m code_judge.bench.sessions --sessions 1000

It starts a service of its own, because it adds up what all of the service's processes use.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from code_judge.bench.http import Connection
from code_judge.tasks import run_loop

AT_A_TIME = 8
START_SECONDS = 60


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000, help="that are timed (default: 2000)")
    parser.add_argument("--sessions", type=int, default=1000, help="that are idle (default: 1000)")
    parser.add_argument("--warm", choices=("bare", "numpy", "sympy"), default="bare")
    options = parser.parse_args(arguments)
    # The service's start, and its sessions', are no cell's.
    _, without = _timed(options.warm, AT_A_TIME)
    seconds, cpu = _timed(options.warm, AT_A_TIME + options.cells)
    each = (cpu - without) / options.cells
    print(f"{options.warm:6} cells: {options.cells / seconds:.0f}/s, {each * 1e3:.2f} ms of CPU each")
    with _service(options.sessions + 1) as (url, pid):
        run_loop(_open(url, options.warm, 1))
        before = _memory(pid)
        run_loop(_open(url, options.warm, options.sessions))
        after = _memory(pid)
    each = (after - before) / options.sessions
    print(
        f"{options.warm:6} idle:  {options.sessions} sessions {after >> 20} MB in all, {each / 1024:.0f} kB each (PSS)"
    )


def _timed(warm: str, cells: int) -> tuple[float, float]:
    """Seconds by the clock and on the CPU for as many cells, with the service's start and end."""
    before = _cpu()
    with _service(AT_A_TIME + 1) as (url, _):
        # Its zygote is there then.
        run_loop(_open(url, warm, 1))
        seconds = run_loop(_run_cells(url, warm, cells))
    return seconds, _cpu() - before


async def _run_cells(url: str, warm: str, cells: int) -> float:
    """Seconds for as many cells, in sessions that run side by side."""

    async def run() -> None:
        connection = Connection(url)
        session = (await connection.post("/session", {"warm": warm}))["session"]
        await connection.post(f"/session/{session}/run", {"code": "x = 0"})
        for _ in range(cells // AT_A_TIME):
            result = await connection.post(f"/session/{session}/run", {"code": "x += 1"})
            assert result["committed"], result
        connection.close()

    start = time.monotonic()
    await asyncio.gather(*(run() for _ in range(AT_A_TIME)))
    return time.monotonic() - start


async def _open(url: str, warm: str, sessions: int) -> None:
    """Sessions that have run three cells and are idle then."""
    connection = Connection(url)
    for _ in range(sessions):
        session = (await connection.post("/session", {"warm": warm}))["session"]
        for code in ("x = 0", "x += 1", "x"):
            await connection.post(f"/session/{session}/run", {"code": code})
    connection.close()


@contextlib.contextmanager
def _service(most: int) -> Iterator[tuple[str, int]]:
    """Its URL and its process. most: sessions."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "url"
        command = [sys.executable, "-m", "code_judge.cli", "serve", "--port", "0", "--port-file", str(port_file)]
        environment = {**os.environ, "MAX_SESSIONS": str(most)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            try:
                end = time.monotonic() + START_SECONDS
                while not port_file.exists():
                    if process.poll() is not None or time.monotonic() > end:
                        raise ValueError("code-judge serve did not start")
                    time.sleep(0.05)
                yield port_file.read_text().strip(), process.pid
            finally:
                process.terminate()


def _cpu() -> float:
    """Seconds that the services have used which have ended, with all their processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> int:
    """Bytes of a process and all below it; what they share counts once."""
    total = 0
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(_memory(int(child)) for child in (task / "children").read_text().split())
    return total


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"code_judge.bench.sessions: error: {error}")
