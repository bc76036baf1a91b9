"""What is known of a judge's processes from outside: which there are, what they are, and their memory."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path


def tree(*pids: int) -> Iterator[int]:
    for pid in pids:
        yield pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            continue
        yield from tree(*map(int, children))


def is_ours(pid: int) -> bool:
    """Whether it is a worker or a part of a zygote. A program looks like the latter and has a session that it leads."""
    with contextlib.suppress(OSError):
        command, leader = Path(f"/proc/{pid}/cmdline").read_text(), os.getsid(pid)
        if "zygote.py" not in command:
            return "spawn_main" in command
        parent = Path(f"/proc/{leader}/stat").read_text().rsplit(")", 1)[1].split()[1]
        return "zygote.py" not in Path(f"/proc/{parent}/cmdline").read_text()
    return False


def memory(pid: int) -> int:
    """Bytes, with a share of what is shared."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return False


def still_there(pids: Iterable[int], seconds: float) -> list[int]:
    """Those that have not ended within so long."""
    latest = time.monotonic() + seconds
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < latest:
        time.sleep(0.1)
    return left
