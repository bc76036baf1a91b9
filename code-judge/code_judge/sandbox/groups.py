"""Control groups (cgroup v2): the kernel's own account and limits of each program, one group a slot.

    <the service's group>/code-judge.service    the service, its zygotes and templates
    <the service's group>/code-judge.<pid>/<n>  a slot of the zygote whose keeper is <pid>; its programs, one by one

memory.max counts what all processes of a program use together: private and shared memory, the folder, and the kernel's
memory for them (pipes, sockets, page tables). Beyond it the kernel kills all of them at once. pids.max limits processes
and threads, cpu.weight makes a program give way, and cgroup.kill leaves none that forks itself out of it.

A group that has processes cannot have limited groups below it, so the processes in the service's group are moved to
code-judge.service. That is done only in a group that was handed over ("delegated"): by systemd's Delegate=yes, to an
owner that is not root, or as the first group that a container can see.

Standard library only: the zygote imports it.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from code_judge.sandbox import kernel

CONTROLLERS = ("memory", "pids", "cpu")
ALLOWANCE = 16 << 20
"""Bytes a program may use beyond its limit: the interpreter's pages that it copies by writing to them."""
_NEARLY = 4 << 20
SERVICE, OURS = "code-judge.service", "code-judge."
_ATTEMPTS, _PAUSE_SECONDS = 50, 0.02
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(slots=True)
class Group:
    """Of a slot. fd: of its folder. killed: not to be used again, because some kernels (seen: Debian's 6.1.176) kill
    what is started in a group that was killed before. The other fields are what was last written or read."""

    name: str
    fd: int
    killed: bool = False
    _memory: int = 0
    _niceness: int = 0
    _shortages: int = 0

    def prepare(self, memory: int) -> None:
        """Before each program. memory: bytes. Raises OSError."""
        if self._memory != memory:
            write("memory.max", memory + ALLOWANCE, self.fd)
            self._memory = memory
        if self._niceness:
            self.give_way(0)
        self._shortages = self._count()

    def has_run_short(self) -> bool:
        """Whether this program has met memory.max. Want of memory in a group further up, such as the container's, does
        not count: others may have used it."""
        return self._count() > self._shortages

    def is_full(self) -> bool:
        """Whether nearly all memory is taken and cannot be reclaimed. Before it kills, the kernel may go on for many
        seconds then, taking the program's own code from it again and again."""
        limit = self._memory + ALLOWANCE - _NEARLY
        if int(read("memory.current", self.fd)) < limit:
            return False
        sizes = dict(line.split() for line in read("memory.stat", self.fd).splitlines())
        return int(read("memory.current", self.fd)) - int(sizes["active_file"]) - int(sizes["inactive_file"]) >= limit

    def give_way(self, niceness: int) -> None:
        self._niceness = niceness
        with contextlib.suppress(OSError):
            write("cpu.weight.nice", niceness, self.fd)

    def kill(self) -> None:
        """All processes in it, and what they are just forking."""
        self.killed = True
        with contextlib.suppress(OSError):
            write("cgroup.kill", 1, self.fd)

    def _count(self) -> int:
        events = dict(line.split() for line in read("memory.events", self.fd).splitlines())
        return int(events["oom"])


@dataclass(slots=True)
class Groups:
    """Of one zygote. path: of the folder that holds its slots' groups. fd: of this folder, which can be used when the
    path is out of sight."""

    path: str
    fd: int
    _made: int = 0

    def add(self, processes: int) -> Group:
        """processes: that a program may have, with its threads. Raises OSError."""
        self._made += 1
        name = str(self._made)
        os.mkdir(name, dir_fd=self.fd)
        group = Group(name, os.open(name, _FOLDER, dir_fd=self.fd))
        write("pids.max", processes, group.fd)
        # Not where swapping is switched off.
        with contextlib.suppress(FileNotFoundError):
            write("memory.swap.max", 0, group.fd)
        # A program that has lost some of its processes is of no use.
        write("memory.oom.group", 1, group.fd)
        return group

    def discard(self, group: Group) -> None:
        """Call when its processes are gone."""
        os.close(group.fd)
        with contextlib.suppress(OSError):
            os.rmdir(group.name, dir_fd=self.fd)


def make_groups() -> Groups:
    """For the zygote of this process, the keeper. Raises OSError with the reason where this host gives none."""
    with open("/proc/self/mountinfo") as mounts, open("/proc/self/cgroup") as own:
        return make_below(*find(mounts.read(), own.read()))


def find(mounts: str, own: str) -> tuple[str, bool]:
    """Folder of the service's group, and whether it is the first one in sight. The arguments are the texts of
    /proc/self/mountinfo and /proc/self/cgroup. Raises OSError."""
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), None)
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        if path is None or kind.split()[0] != "cgroup2":
            continue
        root, mounted = fields.split()[3:5]
        below = os.path.relpath(path, root)
        if not below.startswith(".."):
            if os.path.basename(below) == SERVICE:
                below = os.path.dirname(below) or "."
            return os.path.normpath(os.path.join(mounted, below)), below == "."
    raise OSError("no cgroup v2 is mounted that holds the service's group")


def make_below(base: str, is_first: bool) -> Groups:
    """See `find` for the arguments. Raises OSError."""
    there = read(f"{base}/cgroup.controllers").split()
    if missing := ", ".join(name for name in CONTROLLERS if name not in there):
        raise OSError(f"{base} has no controller {missing} (cgroup v1 has them, or they are not delegated)")
    # The host's own first group has no type, and may hold processes.
    is_host_root = not os.path.exists(f"{base}/cgroup.type")
    if not all(os.access(path, os.W_OK) for path in (base, f"{base}/cgroup.procs")):
        raise OSError(f"{base} is not writable: delegate a control group to the service (systemd: Delegate=yes)")
    if not (is_host_root or is_first or _is_delegated(base)):
        raise OSError(f"{base} is not delegated to the service (systemd: Delegate=yes)")
    enable = " ".join(f"+{name}" for name in CONTROLLERS)
    if is_host_root:
        write(f"{base}/cgroup.subtree_control", enable)
    else:
        _move_processes(base, enable)
    for name in os.listdir(base):
        # Left by a keeper that was killed.
        pid = name.removeprefix(OURS)
        if pid != name and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            remove(f"{base}/{name}")
    path = f"{base}/{OURS}{os.getpid()}"
    os.mkdir(path)
    try:
        write(f"{path}/cgroup.subtree_control", enable)
        groups = Groups(path, os.open(path, _FOLDER))
        _try(groups)
    except OSError:
        remove(path)
        raise
    return groups


def remove(path: str) -> None:
    """The groups of a zygote, with what is left in them."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(OSError):
            write(f"{path}/cgroup.kill", 1)
        if not os.path.exists(path):
            return
        for folder in (*(entry.path for entry in os.scandir(path) if entry.is_dir()), path):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        # Killed processes take a moment to go.
        time.sleep(_PAUSE_SECONDS)


def _move_processes(base: str, enable: str) -> None:
    """To SERVICE, until there is none left: meanwhile they may fork. Raises OSError."""
    os.makedirs(f"{base}/{SERVICE}", exist_ok=True)
    for attempt in range(_ATTEMPTS):
        for pid in read(f"{base}/cgroup.procs").split():
            # It may have ended.
            with contextlib.suppress(ProcessLookupError):
                write(f"{base}/{SERVICE}/cgroup.procs", pid)
        try:
            return write(f"{base}/cgroup.subtree_control", enable)
        except OSError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE_SECONDS)


def _try(groups: Groups) -> None:
    """A process that starts in a group ends by itself, and another one by cgroup.kill. Raises OSError."""
    group = groups.add(2)
    group.prepare(1 << 20)
    for expected in (0, -signal.SIGKILL):
        pid = kernel.fork_into(group.fd)
        if pid == 0:
            signal.alarm(5)
            if expected:
                signal.pause()
            os._exit(0)
        if expected:
            group.kill()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != expected:
            raise OSError(f"a process in a control group ended with {status} instead of {expected}")
    groups.discard(group)


def _is_delegated(path: str) -> bool:
    found = []
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            found.append(os.getxattr(path, name))
    return b"1" in found or os.stat(path).st_uid == os.geteuid() != 0


def read(path: str, folder: int | None = None) -> str:
    """folder: a descriptor, where the path is relative to it. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(file, 1 << 20).decode()
    finally:
        os.close(file)


def write(path: str, value: object, folder: int | None = None) -> None:
    """folder: as for `read`. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(file, str(value).encode())
    finally:
        os.close(file)
