"""What sessions cost: CPU and rate of a cell `x += 1` over HTTP, and memory of sessions that are idle.

    python -m code_judge.bench.sessions --sessions 1000
    python -m code_judge.bench.sessions --redis-uri unix:///run/judge/redis.sock --rounds 5

It starts a service of its own, because it adds up what all of the service's processes use. With --redis-uri it starts a
second one, an API process and workers over this Redis, and runs cells in both in turns: same sessions, same callers.
Redis' own CPU time counts as the service's.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import redis

from code_judge.bench.http import Connection
from code_judge.tasks import run_loop

AT_A_TIME = 8
START_SECONDS = 60


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000, help="that are timed (default: 2000)")
    parser.add_argument("--sessions", type=int, default=1000, help="that are idle (default: 1000)")
    parser.add_argument("--warm", choices=("bare", "numpy", "sympy"), default="bare")
    parser.add_argument("--redis-uri", help="compare sessions over this Redis with sessions in one process")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison (default: 5)")
    options = parser.parse_args(arguments)
    if options.redis_uri:
        _compare(options.warm, options.cells, options.rounds, options.redis_uri)
        return
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


def _compare(warm: str, cells: int, rounds: int, uri: str) -> None:
    """Cells in one process and over Redis, in turns."""
    found: dict[str, list[tuple[float, float, float]]] = {"in one process": [], "over Redis": []}
    with _service(2 * AT_A_TIME) as (here, pid), _service_over(uri, 2 * AT_A_TIME) as (there, pids):
        services = (("in one process", here, [pid]), ("over Redis", there, pids))
        for url in (here, there):
            run_loop(_open(url, warm, 1))
        for _ in range(rounds):
            for name, url, parts in services:
                server = redis.Redis.from_url(uri) if url is there else None
                before = _cpu_of(parts, server)
                seconds, latency = run_loop(_run_cells(url, warm, cells))
                found[name].append((cells / seconds, latency, (_cpu_of(parts, server) - before) / cells))
    for name, values in found.items():
        rate, latency, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:15} {rate:.0f}/s, p50 {latency * 1e3:.1f} ms, {cpu * 1e3:.2f} ms of CPU a cell")
    pairs = zip(found["over Redis"], found["in one process"], strict=True)
    ratios = [tuple(over / plain for over, plain in zip(*pair, strict=True)) for pair in pairs]
    rate, latency, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"ratio           {rate:.2f} of the rate, {latency:.2f} of the latency, {cpu:.2f} of the CPU")


def _timed(warm: str, cells: int) -> tuple[float, float]:
    """Seconds by the clock and on the CPU for as many cells, with the service's start and end."""
    before = _cpu()
    with _service(AT_A_TIME + 1) as (url, _):
        # Its zygote is there then.
        run_loop(_open(url, warm, 1))
        seconds, _ = run_loop(_run_cells(url, warm, cells))
    return seconds, _cpu() - before


async def _run_cells(url: str, warm: str, cells: int) -> tuple[float, float]:
    """Seconds for as many cells, in sessions that run side by side, and the median of one of them."""
    latencies: list[float] = []

    async def run() -> None:
        connection = Connection(url)
        session = (await connection.post("/session", {"warm": warm}))["session"]
        await connection.post(f"/session/{session}/run", {"code": "x = 0"})
        for _ in range(cells // AT_A_TIME):
            start = time.monotonic()
            result = await connection.post(f"/session/{session}/run", {"code": "x += 1"})
            assert result["committed"], result
            latencies.append(time.monotonic() - start)
        await connection.delete(f"/session/{session}")
        connection.close()

    start = time.monotonic()
    await asyncio.gather(*(run() for _ in range(AT_A_TIME)))
    return time.monotonic() - start, statistics.median(latencies)


async def _open(url: str, warm: str, sessions: int) -> None:
    """Sessions that have run three cells and are idle then."""
    connection = Connection(url)
    for _ in range(sessions):
        session = (await connection.post("/session", {"warm": warm}))["session"]
        for code in ("x = 0", "x += 1", "x"):
            await connection.post(f"/session/{session}/run", {"code": code})
    connection.close()


@contextlib.contextmanager
def _service(most: int, **settings: str) -> Iterator[tuple[str, int]]:
    """Its URL and its process. most: sessions."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "url"
        command = [sys.executable, "-m", "code_judge.cli", "serve", "--port", "0", "--port-file", str(port_file)]
        environment = {**os.environ, "MAX_SESSIONS": str(most), **settings}
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


@contextlib.contextmanager
def _service_over(uri: str, most: int) -> Iterator[tuple[str, list[int]]]:
    """As _service, but the API and the workers are processes of their own; the second value is both."""
    settings = {"REDIS_URI": uri, "REDIS_KEY_PREFIX": f"bench-{uuid.uuid4().hex[:8]}", "RUN_WORKERS": "0"}
    environment = {**os.environ, **settings, "MAX_SESSIONS": str(most), "DRAIN_TIME": "0"}
    workers = [sys.executable, "-m", "code_judge.cli", "workers"]
    with (
        subprocess.Popen(workers, env=environment, stderr=subprocess.DEVNULL) as process,
        _service(most, **settings) as (url, pid),
    ):
        try:
            _await_workers(url)
            yield url, [pid, process.pid]
        finally:
            process.send_signal(signal.SIGTERM)


def _await_workers(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        # 503: Redis has not answered in time.
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{url}/status?extra=1") as reply:
            if json.load(reply)["max_sessions"]:
                return
        time.sleep(0.05)
    raise ValueError("the workers did not start")


def _cpu_of(pids: list[int], server: "redis.Redis | None") -> float:
    """Seconds used so far by these processes, by all below them whether they live or have ended, and by Redis."""
    ticks = os.sysconf("SC_CLK_TCK")
    used = sum(sum(map(int, _stat(pid)[11:15])) for top in pids for pid in _tree(top)) / ticks
    if server is not None:
        found = server.info("cpu")
        used += found["used_cpu_sys"] + found["used_cpu_user"]
    return float(used)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["0"] * 15


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [below for child in (task / "children").read_text().split() for below in _tree(int(child))]
    return found


def _cpu() -> float:
    """Seconds that the services have used which have ended, with all their processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> int:
    """Bytes of a process and all below it; what they share counts once."""
    total = 0
    for one in _tree(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
    return total


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"code_judge.bench.sessions: error: {error}")
