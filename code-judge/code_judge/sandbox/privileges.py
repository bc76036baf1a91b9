"""What a program may do and use: the last step of the fork before the program's first line.

Imported by the template only. Standard library, little of it.
"""

import os
import resource
import signal
from os import close, setgroups, setresgid, setresuid
from resource import RLIMIT_AS, RLIMIT_CPU, RLIMIT_NPROC, setrlimit

from code_judge.sandbox import filter
from code_judge.sandbox.kernel import (
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Filter,
    drop_capabilities,
    install_filter,
    landlock_restrict,
    prctl,
)

REPORT_MEMORY = 16 << 20
"""Bytes beyond the program's limit for telling how it ended, since it may have used up all of its own."""
FILE_SIZE = 64 << 20
OPEN_FILES = 256
PROCESSES = 128
"""Processes and threads of one program, where it has a user of its own."""
STATES = 64
"""Processes at rest that a session and its branches may have besides."""
SHARED_PROCESSES = 512
"""Processes and threads of all programs together, where they have one user: what stops a fork bomb."""

Place = tuple[str, int | None, int | None, int, int, int | None, bool, bool]
"""path, uid and ruleset of its box; bytes of address space; seconds of CPU, a second line, the first is kept from
outside; the address of the seccomp filter; whether the filter must keep signals inside; whether the program must die
with its parent."""


def enter(place: Place) -> None:
    """Give up all privileges. Raises OSError."""
    _, uid, ruleset, memory, cpu_seconds, filter_address, keeps_signals, dies_with_parent = place
    setrlimit(RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    setrlimit(RLIMIT_AS, (memory, memory + REPORT_MEMORY))
    if uid is not None:
        setgroups([])
        setresgid(uid, uid, uid)
        setresuid(uid, uid, uid)
        # Its own /proc/self stays readable.
        prctl(PR_SET_DUMPABLE, 1)
    else:
        drop_capabilities()
        setrlimit(RLIMIT_NPROC, (SHARED_PROCESSES, SHARED_PROCESSES))
    if dies_with_parent:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if ruleset is not None:
        landlock_restrict(ruleset)
        close(ruleset)
    if filter_address is None:
        return
    if keeps_signals:
        own = Filter(filter.build_session(os.getpid()))
        filter_address = own.address
    install_filter(filter_address)


def limit(*, own_user: bool, processes: int) -> None:
    """The limits that are the same for all programs; done in the template, whose forks inherit them."""
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        *(((resource.RLIMIT_NPROC, processes),) if own_user else ()),
    ):
        resource.setrlimit(what, (value, value))
