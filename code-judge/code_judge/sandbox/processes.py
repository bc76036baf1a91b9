"""Looking at processes and killing them.

Standard library only: the zygote imports it.
"""

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Container

from code_judge.sandbox import kernel

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_INTERPRETER_BYTES = 16 << 20
"""Not counted as a process's memory: mostly shared with the zygote."""


def children(*, spare: Container[int]) -> list[int]:
    """Of this process."""
    # Without a file object: it would touch many pages that the last fork left to be copied.
    file = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while part := os.read(file, 1 << 16):
            data += part
    finally:
        os.close(file)
    return [pid for pid in map(int, data.split()) if pid not in spare]


def users(pids: list[int]) -> set[int]:
    return {status[0] for pid in pids if (status := _user_and_memory(pid)) is not None}


def memory_by_user() -> dict[int, int]:
    """Bytes that the processes of each user hold."""
    found: defaultdict[int, int] = defaultdict(int)
    for name in os.listdir("/proc"):
        if name.isdigit() and (status := _user_and_memory(int(name))) is not None:
            found[status[0]] += max(0, status[1] - _INTERPRETER_BYTES)
    return found


def cpu_seconds(pid: int) -> float:
    """Of the process and its reaped children."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / _CLOCK_TICKS


def address_space() -> int:
    """Of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def give_way(pid: int, niceness: int) -> None:
    """The program that `pid` leads runs when others do not need the CPU."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, pid, niceness)
    # Where sessions have shares of their own, niceness counts inside of them only.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/autogroup", "w") as file:
        file.write(str(niceness))


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_user(uid: int) -> None:
    """All processes of the user at once, so that none can fork itself out of it."""
    pid = kernel.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def kill_each(pids: list[int]) -> None:
    """Children of ours, with their groups. That may bring us theirs."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            group = os.getpgid(pid)
            if group not in (0, os.getpgrp()) and group == pid:
                kill_group(group)
            os.kill(pid, signal.SIGKILL)


def end_children() -> None:
    while pids := children(spare=()):
        kill_each(pids)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _user_and_memory(pid: int) -> tuple[int, int] | None:
    try:
        with open(f"/proc/{pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith(("Uid:", "VmRSS:")))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields["Uid"].split()[1]), int(fields.get("VmRSS", "0 kB").split()[0]) << 10
