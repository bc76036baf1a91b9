"""Keeps the limits of the programs that run, from outside of them: time, memory, and their share of the CPU.

Standard library only: the zygote imports it.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field
from io import FileIO

from code_judge.sandbox import census, processes
from code_judge.sandbox.box import Box
from code_judge.sandbox.limits import Clock

CHECK_SECONDS = 0.1
"""Mean time between two looks at the programs. None is looked at before it is as old as this."""
OLD_SECONDS = 0.5
"""Age in used time from which a program gives way to younger ones."""
MOST_OLD = len(os.sched_getaffinity(0))
FEW_OLD_NICENESS, OLD_NICENESS = 5, 19
"""The first MOST_OLD of the old programs get their share beside younger ones, so that they come to an end one after the
other; the rest get what the others leave."""


@dataclass(slots=True)
class Job:
    """A program that was started. pid: of its first process, and its session's number. memory: bytes.

    why: what it was killed for. idle: it was not busy (limits.py) when it was last looked at. fetch: descriptor of what
    is to be taken out of its folder (parcel.py). collector: the process that does it. killer: the last process that was
    to kill what the program had left. outputs: what it writes to, closed with this object.
    """

    id: int
    pid: int
    box: Box
    clock: Clock
    memory: int
    may_be_old: bool
    niceness: int = 0
    why: str | None = None
    idle: bool = False
    orphans_cpu: float = 0.0
    status: int = 0
    end: float = 0.0
    next_sweep: float = 0.0
    reported: bool = False
    fetch: int | None = None
    collector: int | None = None
    killer: int | None = None
    pids: list[int] = field(default_factory=list)
    outputs: Sequence[FileIO] = ()

    @property
    def session(self) -> int:
        return self.pid


class Watch:
    """kill: ends a program, and says why. tell: reports that a program has become idle, or is no longer."""

    def __init__(
        self,
        *,
        own_processes: bool,
        template: int,
        kill: Callable[[Job, str], None],
        tell: Callable[[Job], None],
    ) -> None:
        self._own_processes = own_processes
        self._template = template
        self._template_space = 0
        self._kill = kill
        self._tell = tell
        self._next = 0.0
        self.spare: Container[int] = ()
        """Processes that are not looked at."""

    def pause(self, jobs: Iterable[Job]) -> float | None:
        """Seconds until the next `check`; None if there is no program."""
        now = time.monotonic()
        # The first is the oldest.
        first = next(iter(jobs), None)
        return None if first is None else max(0.0, max(self._next, first.clock.start + CHECK_SECONDS) - now)

    def check(self, jobs: Collection[Job]) -> None:
        """Look at the programs, unless it was done a moment ago or all are very young."""
        now, first = time.monotonic(), next(iter(jobs), None)
        if now < self._next or first is None or now - first.clock.start < CHECK_SECONDS:
            return
        grown = [job for job in jobs if now - job.clock.start >= CHECK_SECONDS]
        self._next = now + CHECK_SECONDS * (0.5 + os.urandom(1)[0] / 256)
        if not self._template_space:
            self._template_space = census.address_space(self._template)
        found = census.take(own_processes=self._own_processes, template_space=self._template_space, spare=self.spare)
        for job in grown:
            usage = found.get(job.session)
            if usage is not None:
                self._check(job, usage, time.monotonic())
        self._share([job for job in jobs if job.why is None and not job.idle])

    def _check(self, job: Job, usage: census.Usage, now: float) -> None:
        job.pids = usage.pids
        clock = job.clock
        # A program can bring itself to wait for a disk again and again, so that counts in the end.
        busy = usage.runnable or _waits_for_us(job) or (usage.blocked and not clock.is_late())
        clock.observe(now, cpu=usage.cpu + job.orphans_cpu, busy=busy)
        if job.why is not None:
            return
        if clock.is_over():
            self._kill(job, "timeout")
        elif clock.is_starved():
            self._kill(job, "starved")
        elif _uses_too_much(job, usage):
            self._kill(job, "memory")
        elif job.idle is busy:
            job.idle = not busy
            self._tell(job)

    def _share(self, active: list[Job]) -> None:
        """The oldest programs first. Where each program has a core, none gives way, and one that is late does not."""
        old = [job for job in active if job.may_be_old and job.clock.used >= OLD_SECONDS]
        for place, job in enumerate(old):
            niceness = OLD_NICENESS if place >= MOST_OLD else FEW_OLD_NICENESS
            if len(active) <= MOST_OLD or job.clock.is_late():
                niceness = 0
            if job.niceness != niceness:
                job.niceness = niceness
                if job.box.group is not None:
                    job.box.group.give_way(niceness)
                else:
                    processes.give_way(job.pid, job.box.uid, job.pids, niceness)


def finish(job: Job, cpu: float, now: float) -> None:
    """Call with the CPU time of a program that has ended: it may have used up its time since the last look."""
    job.end = now
    job.clock.observe(now, cpu=cpu + job.orphans_cpu, busy=True)
    if job.why is not None:
        return
    group = job.box.group
    if group is not None and job.status == -signal.SIGKILL and group.has_run_short():
        job.why = "memory"
    elif job.clock.is_over():
        job.why = "timeout"


def kill_first_processes(job: Job) -> None:
    """Those that are certainly the program's: its first process, and its group."""
    if job.box.group is not None:
        # It takes the CPU to die.
        job.box.group.give_way(0)
        job.box.group.kill()
        return
    if job.niceness:
        processes.give_way(job.pid, job.box.uid, job.pids, 0)
    # Not yet reaped, so the number is still its own; it may not have its own group yet.
    os.kill(job.pid, signal.SIGKILL)
    processes.kill_group(job.pid)
    if job.box.uid is None:
        processes.kill_all(job.pids)


def _waits_for_us(job: Job) -> bool:
    """One of its outputs is full: the service, which empties it, is late."""
    poll = select.poll()
    for output in job.outputs:
        poll.register(output, select.POLLOUT)
    return len(poll.poll(0)) < len(job.outputs)


def keep_outputs(fds: Iterable[int]) -> list[FileIO]:
    """For a job; the caller closes its own."""
    return [FileIO(os.dup(fd), "w") for fd in fds]


def _uses_too_much(job: Job, usage: census.Usage) -> bool:
    if job.box.group is not None:
        return job.box.group.is_full()
    folder = job.box.used()
    if usage.resident + folder <= job.memory and usage.hidden <= job.memory:
        return False
    return census.memory(usage, folder) > job.memory
