"""What each program uses now: one look at all processes in /proc, added up by session.

A program's first process makes a session, and the seccomp filter keeps all its processes in it. So the session's number
says which program a process belongs to. (Without the layer seccomp a program can leave its session; its first process
is counted all the same.) Standard library only: the zygote imports it.
"""

import os
import re
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from code_judge.sandbox.processes import descendants

_TICKS = os.sysconf("SC_CLK_TCK")
_PROCESS_CLOCK = 2
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATE, _SESSION, _UTIME, _CUTIME, _CSTIME, _THREADS, _ADDRESS_SPACE, _RESIDENT = 0, 3, 11, 13, 14, 17, 20, 21
"""Fields of /proc/<pid>/stat after the process's name; user and system time, own and of reaped children, are four in a
row."""
_INTERPRETER_BYTES = 16 << 20
"""Not counted as a process's memory: mostly shared with the zygote."""
_IN_FORK = re.compile("fork|clone")
"""Uninterruptible sleep is a wait for a disk or for a lock of the kernel, but for the wait for a child by vfork, which
lasts as long as the child likes."""
_SHARED_MEMORY = "/dev/zero (deleted)", "/memfd:", "/SYSV"


@dataclass(slots=True)
class Usage:
    """Of all living processes of one program.

    cpu: seconds, with reaped children. runnable: a thread runs or waits for a core. blocked: one waits for the kernel.
    resident: bytes, what processes share counted more than once. hidden: the most bytes that memory without a resident
    page can have.
    """

    pids: list[int] = field(default_factory=list)
    cpu: float = 0.0
    runnable: bool = False
    blocked: bool = False
    resident: int = 0
    hidden: int = 0


def take(*, own_processes: bool, template_space: int, spare: Container[int] = ()) -> dict[int, Usage]:
    """Usage by session. own_processes: /proc shows the zygote's processes only. template_space: bytes of address space
    that a program has from the start. spare: processes not to be looked at."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()] if own_processes else descendants()
    found: dict[int, Usage] = {}
    for pid in pids:
        stat = None if pid in spare else read_stat(pid)
        if stat is None:
            continue
        session = int(stat[_SESSION])
        usage = found.get(session)
        if usage is None:
            usage = found[session] = Usage()
        usage.cpu += sum(map(int, stat[_UTIME : _CSTIME + 1])) / _TICKS
        if stat[_STATE] in (b"Z", b"X"):
            continue
        usage.pids.append(pid)
        # Of a program that is known to run, nothing else matters.
        for place, state in _states(pid, stat) if not usage.runnable else ():
            if state == b"R":
                usage.runnable = True
                break
            usage.blocked = usage.blocked or (state == b"D" and not _IN_FORK.search(_waits_in(place)))
        usage.resident += max(0, int(stat[_RESIDENT]) * _PAGE - _INTERPRETER_BYTES)
        space = int(stat[_ADDRESS_SPACE])
        # A process with less address space than the template has executed another program.
        usage.hidden += space - template_space if space >= template_space else space
    return found


def memory(usage: Usage, folder: int) -> int:
    """Bytes that a program uses: private memory, what is swapped out, shared memory, and its folder.

    Shared memory counts by its size: its pages stay when no process has them mapped any longer. What processes share
    counts once. Not counted: the kernel's own memory, such as what is in pipes and sockets.
    """
    private, shared = 0, dict[str, int]()
    for pid in usage.pids:
        try:
            private += max(0, _private(pid) - _INTERPRETER_BYTES)
            for inode, end in _shared(pid):
                shared[inode] = max(end, shared.get(inode, 0))
        except PermissionError:
            # It has made itself unreadable, where we have no privileges over it; the upper bound counts.
            return usage.resident + usage.hidden + folder
        except OSError:
            # It has ended meanwhile.
            pass
    return private + sum(shared.values()) + folder


def read_stat(pid: int | str) -> list[bytes] | None:
    """Fields of a process, or of a thread given as "pid/task/tid". None if it is gone."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(file, 2048)
    except OSError:
        return None
    finally:
        os.close(file)
    # The name may hold anything, parentheses too.
    return data[data.rindex(b")") + 2 :].split()


def session(pid: int) -> int | None:
    stat = read_stat(pid)
    return None if stat is None else int(stat[_SESSION])


def cpu(pid: int) -> float:
    """Seconds, exact where /proc counts in ticks, without reaped children; 0 if the process is gone."""
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CLOCK)
    except OSError:
        return 0.0


def state(pid: int | str) -> bytes:
    """Of a process, or of a thread given as "pid/task/tid": a letter, X if it is gone."""
    stat = read_stat(pid)
    return b"X" if stat is None else stat[_STATE]


def living(pid: int) -> bool:
    """False for one that has ended and was not waited for."""
    return state(pid) not in (b"Z", b"X")


def resident(pid: int) -> tuple[int, float]:
    """Bytes, with those that it shares, and the CPU seconds of its reaped children; 0 if the process is gone."""
    stat = read_stat(pid)
    if stat is None:
        return 0, 0.0
    return int(stat[_RESIDENT]) * _PAGE, sum(map(int, stat[_CUTIME : _CSTIME + 1])) / _TICKS


def address_space(pid: int) -> int:
    """Bytes; 0 if the process is gone."""
    stat = read_stat(pid)
    return 0 if stat is None else int(stat[_ADDRESS_SPACE])


def threads(pid: int) -> list[int]:
    """Of a process; none if it is gone."""
    try:
        return list(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return []


def _states(pid: int, stat: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Place in /proc and state of each thread of a process."""
    if stat[_THREADS] == b"1":
        yield str(pid), stat[_STATE]
        return
    for thread in threads(pid):
        place = f"{pid}/task/{thread}"
        yield place, state(place)


def _waits_in(place: str) -> str:
    """The function of the kernel; that of fork where the kernel does not say."""
    try:
        with open(f"/proc/{place}/wchan") as file:
            name = file.read()
    except OSError:
        name = ""
    return name if name not in ("", "0") else "fork"


def _private(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        sizes = dict(line.split(":", 1) for line in file if line.startswith(("Pss_Anon:", "SwapPss:")))
    return sum(int(size.split()[0]) << 10 for size in sizes.values())


def _shared(pid: int) -> list[tuple[str, int]]:
    """Inode and bytes up to the mapping's end, of each mapping of shared memory."""
    found = []
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            area, rights, offset, _, inode, *name = line.split(None, 5)
            if rights[3] == "s" and name and name[0].startswith(_SHARED_MEMORY):
                start, end = (int(address, 16) for address in area.split("-"))
                found.append((inode, int(offset, 16) + end - start))
    return found
