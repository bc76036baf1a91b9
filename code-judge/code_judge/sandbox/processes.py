"""Looking at processes and killing them.

Standard library only: the zygote imports it.
"""

import contextlib
import os
import signal
import time
from collections.abc import Container, Iterable

from code_judge.sandbox import kernel

_SHARES, _LEAST_PROCESSES = 16, 16


def children(*, spare: Container[int] = (), of: int | None = None) -> list[int]:
    """Of this process, or of another one with a single thread."""
    path = "/proc/thread-self/children" if of is None else f"/proc/{of}/task/{of}/children"
    return [pid for pid in _read_numbers(path) if pid not in spare]


def children_of_thread(pid: int, thread: int) -> list[int]:
    return _read_numbers(f"/proc/{pid}/task/{thread}/children")


def _read_numbers(path: str) -> list[int]:
    """Without a file object: it would touch many pages that the last fork left to be copied."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        data = b""
        while part := os.read(file, 1 << 16):
            data += part
    finally:
        os.close(file)
    return list(map(int, data.split()))


def descendants() -> list[int]:
    """Children of this process, their children, and so on."""
    found, new = [], children()
    while new:
        found += new
        new = [child for pid in new for child in children(of=pid)]
    return found


def user(pid: int) -> int | None:
    """None if the process is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Uid:")), None)
    except OSError:
        return None


def address_space() -> int:
    """Of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def be_killable() -> None:
    """A service that the kernel must not kill for want of memory has programs that it must."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")


def fair_share(most: int) -> int:
    """How many processes one program may have: `most`, or less where this host's control group allows few altogether,
    so that a program cannot use up what the others need."""
    allowed = []
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.strip().split(":", 2)
            folder = "pids" if controllers == "pids" else ""
            # In a container the group may be mounted as the root.
            for place in (path, ""):
                with (
                    contextlib.suppress(OSError, ValueError),
                    open(f"/sys/fs/cgroup/{folder}{place}/pids.max") as limit,
                ):
                    allowed.append(int(limit.read()))
    return min(most, max(_LEAST_PROCESSES, min(allowed, default=most * _SHARES) // _SHARES))


def give_way(pid: int, uid: int | None, pids: Iterable[int], niceness: int) -> None:
    """All processes of a program run when others do not need the CPU. pid: of one that lives. uid: of the program, if
    it has one of its own."""
    with contextlib.suppress(OSError):
        if uid is not None:
            # A process cannot leave its user, as it can leave its group.
            os.setpriority(os.PRIO_USER, uid, niceness)
        else:
            for pid in pids:
                os.setpriority(os.PRIO_PROCESS, pid, niceness)
    # Where sessions have shares of their own, niceness counts inside of them only.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/autogroup", "w") as file:
        file.write(str(niceness))


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_user(uid: int, killer_uid: int, number: int = signal.SIGKILL) -> int:
    """Kill all processes of the user at once, so that none can fork itself out of it; or stop them with SIGSTOP.

    A process of ours does it, which the user must not be able to signal: its real and saved user is `killer_uid`, which
    has no other processes. Returns its number; the caller reaps it. Raises OSError if it cannot be started.
    """
    pid = kernel.fork()
    if pid == 0:
        try:
            os.setresuid(killer_uid, uid, killer_uid)
            os.kill(-1, number)
        finally:
            os._exit(0)
    return pid


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def kill_each(pids: list[int]) -> None:
    """Children of ours, with their groups. That may bring us theirs."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            group = os.getpgid(pid)
            if group not in (0, os.getpgrp()) and group == pid:
                kill_group(group)
            os.kill(pid, signal.SIGKILL)


def end_children() -> None:
    while pids := children():
        kill_each(pids)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)
