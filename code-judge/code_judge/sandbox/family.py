"""What the warden knows of a session: its states at rest, its folder, and the cell that runs.

A family is one user and one folder. Its states are processes that were forked from one another; several names that the
service gives out (sessions, branches, snapshots) may stand for them. One cell of a family runs at a time.
Standard library only: the zygote imports it.
"""

import os
import signal
from dataclasses import dataclass, field
from socket import socket

from code_judge.sandbox import census, processes
from code_judge.sandbox.box import Box
from code_judge.sandbox.files import Folder, Listing
from code_judge.sandbox.watch import Job


@dataclass(eq=False, slots=True)
class State:
    """A process at rest. control: the warden's end of its socket. files: of its folder. resident: bytes. reaped_cpu:
    seconds of its children.

    undone: a cell was forked from it whose effects were thrown away, or which went on in another state.
    """

    pid: int
    family: "Family"
    control: socket
    files: Listing
    resident: int = 0
    reaped_cpu: float = 0.0
    undone: bool = False


@dataclass(eq=False, slots=True)
class Family:
    """session: number of the processes' session, which is that of its first process. memory: bytes, of all its states
    and the running cell together. holds: the state whose files are in the folder."""

    id: int
    box: Box
    uid: int
    folder: Folder
    session: int
    memory: int
    states: dict[int, State] = field(default_factory=dict)
    holds: State | None = None
    cell: "Cell | None" = None
    next_sweep: float = 0.0

    def strangers(self, strangers: list[int]) -> list[int]:
        """Of processes that are nobody's we know, those of this family."""
        return [pid for pid in strangers if processes.user(pid) == self.uid and census.living(pid)]

    def used(self, new: State, template: int) -> int:
        """Bytes in use by the states, a new one, and the folder; not exact where that is certainly allowed. template:
        resident bytes of the template."""
        states = [*self.states.values(), new]
        folder = self.box.used()
        rough = sum(max(0, state.resident - template) for state in states) + folder
        pids = [state.pid for state in states]
        return rough if rough <= self.memory else census.memory(census.Usage(pids=pids), folder)


@dataclass(slots=True, kw_only=True)
class Cell(Job):
    """A fork of `origin`, which becomes the state number `target` if its effects are kept. `pid` is the origin's until
    it has started.

    keep: success, always or never. drop: whether the origin goes when the cell is kept. secret: see cell.py. ended:
    REST or REST_FAILED, once it is at rest. word: bytes of the packet that names its exception. state: what it becomes
    if it is kept.
    """

    family: Family
    origin: State
    target: int
    keep: str
    drop: bool
    secret: bytes
    control: socket
    started: bool = False
    ended: bytes = b""
    word: bytes = b""
    packets: int = 0
    state: State | None = None
    error: str = ""

    @property
    def session(self) -> int:
        return self.family.session


def descendants(pid: int) -> list[int]:
    """Living processes below one, whichever of its threads has started them."""
    found: list[int] = []
    for thread in census.threads(pid):
        for child in processes.children_of_thread(pid, thread):
            if census.living(child):
                found += [child, *descendants(child)]
    return found


def is_stopped(pid: int) -> bool:
    """With all its threads: it does nothing any longer, not even end."""
    threads = census.threads(pid)
    return bool(threads) and all(census.state(f"{pid}/task/{thread}") == b"T" for thread in threads)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
