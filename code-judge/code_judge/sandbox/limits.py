"""When a program has used up its time: pure arithmetic.

A program's time is the CPU time it uses plus the time in which it waits for something of its own: sleeps, or waits for
input. Time in which it waits for the host does not count: for a core, for a disk or a lock of the kernel, or for us to
read what it has written. On a loaded host a process of little priority may hold a lock for seconds that every program
needs to fork or to end. So a loaded machine delays a verdict and never changes it. On an idle machine the sum is the
wall time.

How long a program waits for the host is found by samples: if it is busy at a sample, which means that one of its
threads runs or waits for the host, the time since the last sample counts with the CPU time used in it, otherwise in
full, up to LATE_LOOK_SECONDS. The samples come at random times, so that a program cannot be busy just then.
"""

import math
from dataclasses import dataclass

MOST_WALL = 20
"""A program is given up after this many times its limit by the wall clock. Then it is the host that has failed."""
LATE_LOOK_SECONDS = 0.25
"""On a loaded machine samples come late, and one of them must not decide about seconds: what it finds asleep for a
moment may have been busy all the time."""
LATE_WALL = MOST_WALL / 4
"""From this many times its limit on, it gives way to no other program of ours, so that it is not we who starve it: of
30 endless loops beside four other busy processes a core, 30 use up their limit, and 8 without this (test_load.py)."""


@dataclass(slots=True)
class Clock:
    """Seconds. limit: of time used. start, seen: when the program started, and when it was last looked at. most_cpu: a
    limit of CPU time alone."""

    limit: float
    start: float
    seen: float
    cpu: float = 0.0
    idle: float = 0.0
    most_cpu: float = math.inf

    @property
    def used(self) -> float:
        return self.cpu + self.idle

    def observe(self, now: float, *, cpu: float, busy: bool) -> None:
        """cpu: used since the start. It can seem to shrink, when a process ends that nobody waited for."""
        spent = max(0.0, cpu - self.cpu)
        if not busy:
            self.idle += min(LATE_LOOK_SECONDS, max(0.0, now - self.seen - spent))
        self.cpu = max(self.cpu, cpu)
        self.seen = now

    def is_over(self) -> bool:
        if self.cpu >= min(self.limit, self.most_cpu):
            return True
        return self.seen >= self.start + self.limit and self.used >= self.limit

    def is_late(self) -> bool:
        return self.seen >= self.start + LATE_WALL * self.limit

    def is_starved(self) -> bool:
        """The host has not given the program the CPU that it may use."""
        return self.seen >= self.start + MOST_WALL * self.limit
