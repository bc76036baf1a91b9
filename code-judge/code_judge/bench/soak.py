"""`code-judge soak`: a service of its own under full load for a long time; nothing may grow and nothing may be left.

The load is a mix of everything, hostile programs too. Every few seconds: right answers, memory of all its processes
together (shared pages counted once), zombies. Fails if the memory at the end is more than GROWTH times that of the
first tenth, or if a zombie, a process or a folder is left.
"""

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from code_judge.bench.http import Connection
from code_judge.bench.loads import LOADS

GROWTH = 1.25
CONCURRENCY = 16
TROUBLE = (
    "while True: pass",
    "import os\nfor _ in range(40):\n    if os.fork() == 0:\n        while True: pass",
    "x = bytearray(1 << 34)",
    "while True: print('x' * 1000)",
    "for i in range(10**6): open(str(i), 'w').close()",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass",
    "import os; os.abort()",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=900, help="how long (default: 900)")
    parser.add_argument("--every", type=float, default=10, help="seconds between two lines (default: 10)")


def main(options: argparse.Namespace) -> None:
    """Raises ValueError naming what has grown or is left."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        environment = {**os.environ, "TMPDIR": folder, "MAX_EXECUTION_TIME": "2"}
        command = [sys.executable, "-m", "code_judge.cli", "serve", "--port", "0", "--parent-pid", str(os.getpid())]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            memory = asyncio.run(_soak(url, process.pid, options))
            below = list(_tree(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        left = [pid for pid in below if Path(f"/proc/{pid}").exists()]
        folders = os.listdir(folder)
    start, end = max(memory[: max(2, len(memory) // 10)]), memory[-1]
    if end > GROWTH * start:
        raise ValueError(f"memory grew from {start >> 20} MB to {end >> 20} MB")
    if left or folders:
        raise ValueError(f"left behind: processes {left}, folders {folders}")
    print(f"flat: {start >> 20} MB at the beginning, {end >> 20} MB at the end; no process, zombie or folder left")


async def _soak(url: str, pid: int, options: argparse.Namespace) -> list[int]:
    start, numbers, done, wrong = time.monotonic(), itertools.count(), 0, 0
    memory: list[int] = []

    async def caller(number: int) -> None:
        nonlocal done, wrong
        connection, choice = Connection(url), random.Random(number)
        while time.monotonic() - start < options.seconds:
            if choice.random() < 0.02:
                body = {"type": "python", "solution": choice.choice(TROUBLE)}
                right = (
                    await connection.post("/judge/long-batch", {"type": "batch", "submissions": [body]})
                ) is not None
            else:
                source, expected = choice.choice(LOADS[:3]).make(next(numbers))
                body = {"type": "python", "solution": source, "expected_output": expected or ""}
                reply = await connection.post("/judge/long-batch", {"type": "batch", "submissions": [body]})
                right = reply["results"][0]["success"]
            done, wrong = done + 1, wrong + (not right)
        connection.close()

    async def watch() -> None:
        while time.monotonic() - start < options.seconds:
            await asyncio.sleep(options.every)
            memory.append(sum(_memory(process) for process in _tree(pid)))
            zombies = sum(_is_zombie(process) for process in _tree(pid))
            seconds = time.monotonic() - start
            print(
                f"{seconds:6.0f} s  {done} answers  {wrong} wrong  {memory[-1] >> 20} MB  {zombies} zombies", flush=True
            )

    await asyncio.gather(watch(), *(caller(number) for number in range(CONCURRENCY)))
    # What ran for longest has ended by now, and idle memory is compared with idle memory.
    await asyncio.sleep(1)
    memory.append(sum(_memory(process) for process in _tree(pid)))
    if wrong:
        raise ValueError(f"{wrong} of {done} answers were wrong")
    zombies = [process for process in _tree(pid) if _is_zombie(process)]
    if zombies:
        raise ValueError(f"zombies: {zombies}")
    return memory


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


def _memory(pid: int) -> int:
    """Bytes, with a share of what is shared."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return False
