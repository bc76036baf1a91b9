"""`code-judge soak`: a service of its own under full load for a long time; nothing may grow and nothing may be left.

The load is a mix of everything, hostile programs too. Every few seconds: right answers, memory of all its processes
together (shared pages counted once), zombies. Fails if an answer is wrong or missing, if the memory at the end is more
than GROWTH times that of the first tenth, or if a zombie, a process or a folder is left.

With --redis-uri it is an API and workers of their own, as run on many hosts. With --kill-every a process of ours is
killed again and again: a worker, or a keeper, zygote or template. Then what ran there may be answered internal_error,
and nothing else may change.
"""

import argparse
import asyncio
import contextlib
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
from code_judge.wire import Reason

GROWTH = 1.25
LEAVE_SECONDS = 5.0
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
    parser.add_argument("--kill-every", type=float, default=0, help="seconds between two kills (default: none)")
    parser.add_argument("--redis-uri", help="queue the work there, with workers in processes of their own")


def main(options: argparse.Namespace) -> None:
    """Raises ValueError naming what has grown or is left."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        environment = {**os.environ, "TMPDIR": folder, "MAX_EXECUTION_TIME": "2"}
        if options.redis_uri:
            environment |= {"REDIS_URI": options.redis_uri, "RUN_WORKERS": "0"}
        command = [sys.executable, "-m", "code_judge.cli", "serve", "--port", "0", "--parent-pid", str(os.getpid())]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)]
        if options.redis_uri:
            command = [sys.executable, "-m", "code_judge.cli", "workers"]
            started.append(subprocess.Popen(command, text=True, env=environment))
        stdout = started[0].stdout
        assert stdout is not None
        url, ours = stdout.readline().split()[-1], [process.pid for process in started]
        try:
            memory = asyncio.run(_soak(url, ours, options))
            below = list(_tree(*ours))
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(30)
        # Python's own resource tracker ends a moment after the workers that it serves.
        latest = time.monotonic() + LEAVE_SECONDS
        while (left := [pid for pid in below if Path(f"/proc/{pid}").exists()]) and time.monotonic() < latest:
            time.sleep(0.1)
        folders = os.listdir(folder)
    # What was just killed has no memory, so with kills the first tenth says too little.
    start, end = max(memory[: max(2, len(memory) // (2 if options.kill_every else 10))]), memory[-1]
    if end > GROWTH * start:
        raise ValueError(f"memory grew from {start >> 20} MB to {end >> 20} MB")
    if left or folders:
        raise ValueError(f"left behind: processes {left}, folders {folders}")
    print(f"flat: {start >> 20} MB at the beginning, {end >> 20} MB at the end; no process, zombie or folder left")


async def _soak(url: str, ours: list[int], options: argparse.Namespace) -> list[int]:
    start, numbers, done, wrong, lost, kills = time.monotonic(), itertools.count(), 0, 0, 0, 0
    memory: list[int] = []

    async def caller(number: int) -> None:
        nonlocal done, wrong, lost
        connection, choice = Connection(url), random.Random(number)
        while time.monotonic() - start < options.seconds:
            if choice.random() < 0.02:
                body = {"type": "python", "solution": choice.choice(TROUBLE)}
                await connection.post("/judge/long-batch", {"type": "batch", "submissions": [body]})
                done += 1
                continue
            source, expected = choice.choice(LOADS[:3]).make(next(numbers))
            body = {"type": "python", "solution": source, "expected_output": expected or ""}
            reply = await connection.post("/judge/long-batch", {"type": "batch", "submissions": [body]})
            result = reply["results"][0]
            failed = bool(kills) and result["reason"] == Reason.INTERNAL_ERROR
            done, lost, wrong = done + 1, lost + failed, wrong + (not failed and not result["success"])
        connection.close()

    async def watch() -> None:
        while time.monotonic() - start < options.seconds:
            await asyncio.sleep(options.every)
            memory.append(sum(_memory(process) for process in _tree(*ours)))
            zombies = sum(_is_zombie(process) for process in _tree(*ours))
            seconds, killed = time.monotonic() - start, f"  {kills} kills  {lost} lost by them" if kills else ""
            print(
                f"{seconds:6.0f} s  {done} answers  {wrong} wrong{killed}  {memory[-1] >> 20} MB  {zombies} zombies",
                flush=True,
            )

    async def kill() -> None:
        nonlocal kills
        choice = random.Random(0)
        while options.kill_every and time.monotonic() - start + options.kill_every < options.seconds:
            await asyncio.sleep(options.kill_every)
            victims = [process for process in _tree(*ours) if _is_ours(process)]
            if victims:
                kills += 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(choice.choice(victims), signal.SIGKILL)

    await asyncio.gather(watch(), kill(), *(caller(number) for number in range(CONCURRENCY)))
    # What ran for longest has ended by now, and idle memory is compared with idle memory.
    await asyncio.sleep(1)
    memory.append(sum(_memory(process) for process in _tree(*ours)))
    if wrong:
        raise ValueError(f"{wrong} of {done} answers were wrong")
    if lost > kills * CONCURRENCY:
        raise ValueError(f"{lost} answers were lost by {kills} kills, with {CONCURRENCY} at a time")
    zombies = [process for process in _tree(*ours) if _is_zombie(process)]
    if zombies:
        raise ValueError(f"zombies: {zombies}")
    return memory


def _tree(*pids: int) -> Iterator[int]:
    for pid in pids:
        yield pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            continue
        yield from _tree(*map(int, children))


def _is_ours(pid: int) -> bool:
    """Whether it is a worker or a part of a zygote. A program looks like the latter and has a session that it leads."""
    with contextlib.suppress(OSError):
        command, leader = Path(f"/proc/{pid}/cmdline").read_text(), os.getsid(pid)
        if "zygote.py" not in command:
            return "spawn_main" in command
        parent = Path(f"/proc/{leader}/stat").read_text().rsplit(")", 1)[1].split()[1]
        return "zygote.py" not in Path(f"/proc/{parent}/cmdline").read_text()
    return False


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
