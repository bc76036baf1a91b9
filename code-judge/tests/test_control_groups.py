"""Control groups: on an imitated tree of cgroup v2, and where the host has it, on the kernel's."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from code_judge.sandbox import groups
from code_judge.sandbox.box import Box
from code_judge.sandbox.limits import Clock
from code_judge.sandbox.pool import Execution, Program, Sandbox
from code_judge.sandbox.watch import Job, finish

V2 = "30 23 0:26 {root} {place} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("mounts", "own", "expected"),
    [
        ([V2.format(root="/", place="/c")], "0::/system.slice/judge.service", ("/c/system.slice/judge.service", False)),
        ([V2.format(root="/", place="/c")], "0::/", ("/c", True)),
        ([V1, V2.format(root="/", place="/c/unified")], "4:memory:/a\n0::/b", ("/c/unified/b", False)),
        ([V2.format(root="/docker/1f", place="/c")], "0::/docker/1f", ("/c", True)),
        ([V2.format(root="/docker/1f", place="/c")], "0::/docker/1f/x", ("/c/x", False)),
        # What a service before this one, or another worker of it, has moved.
        ([V2.format(root="/", place="/c")], "0::/a/code-judge.service", ("/c/a", False)),
        ([V2.format(root="/", place="/c")], "0::/code-judge.service", ("/c", True)),
    ],
)
def test_the_service_finds_its_group(mounts: list[str], own: str, expected: tuple[str, bool]) -> None:
    assert groups.find("\n".join(mounts), own + "\n") == expected


@pytest.mark.parametrize(
    ("mounts", "own"), [(V1, "4:memory:/a"), (V1, "0::/"), (V2.format(root="/docker/1f", place="/c"), "0::/other")]
)
def test_a_host_without_a_group_of_ours_says_so(mounts: str, own: str) -> None:
    with pytest.raises(OSError, match="no cgroup v2 is mounted"):
        groups.find(mounts, own)


class Tree:
    """Folders with the kernel's files. A process moves when its number is written; a group with processes cannot give
    controllers away."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.make(str(path))
        monkeypatch.setattr(groups, "write", self.write)
        monkeypatch.setattr(groups, "_try", lambda _: None)
        real_mkdir, real_open, real_rmdir = os.mkdir, os.open, os.rmdir
        self.names: dict[int, Path] = {}

        def full(path: str, dir_fd: int | None) -> str:
            return path if dir_fd is None else str(self.names[dir_fd] / path)

        def mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            real_mkdir(full(path, dir_fd), mode)
            self.make(full(path, dir_fd))

        def open_file(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            fd = real_open(full(path, dir_fd) if isinstance(path, str) else path, flags, mode)
            self.names[fd] = Path(full(path, dir_fd)) if isinstance(path, str) else Path()
            return fd

        def rmdir(path: str, *, dir_fd: int | None = None) -> None:
            folder = Path(full(path, dir_fd))
            for file in folder.iterdir():
                if file.is_file():
                    file.unlink()
            real_rmdir(folder)

        monkeypatch.setattr(os, "mkdir", mkdir)
        monkeypatch.setattr(os, "open", open_file)
        monkeypatch.setattr(os, "rmdir", rmdir)

    def make(self, path: str) -> None:
        for name, text in {
            "cgroup.controllers": "cpuset cpu io memory pids",
            "cgroup.type": "domain",
            "cgroup.procs": "",
            "cgroup.subtree_control": "",
            "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
        }.items():
            Path(path, name).write_text(text)

    def write(self, path: str, value: object, folder: int | None = None) -> None:
        place = Path(path) if folder is None else self.names[folder] / path
        if place.name == "cgroup.procs":
            source = place.parents[1] / "cgroup.procs"
            source.write_text(source.read_text().replace(f"{value}\n", ""))
            value = place.read_text() + f"{value}\n"
        elif place.name == "cgroup.subtree_control" and place.with_name("cgroup.procs").read_text():
            raise OSError(16, "Device or resource busy")
        place.write_text(str(value))

    def procs(self, below: str = "") -> list[str]:
        return (self.path / below / "cgroup.procs").read_text().split()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    it = Tree(tmp_path, monkeypatch)
    (tmp_path / "cgroup.procs").write_text("11\n12\n")
    return it


def test_processes_make_room_for_groups_below_theirs(tree: Tree) -> None:
    made = groups.make_below(str(tree.path), True)
    assert (tree.procs(), tree.procs("code-judge.service")) == ([], ["11", "12"])
    assert (tree.path / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert made.path == str(tree.path / f"code-judge.{os.getpid()}")
    assert Path(made.path, "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


def test_what_a_killed_keeper_left_is_removed_and_nothing_else(tree: Tree) -> None:
    for name in ("code-judge.999999999/1", f"code-judge.{os.getppid()}/1", "code-judge.old", "system.slice"):
        (tree.path / name).mkdir(parents=True)
    made = groups.make_below(str(tree.path), True)
    kept = {f"code-judge.{os.getppid()}", "code-judge.old", "system.slice", "code-judge.service"}
    assert {entry.name for entry in os.scandir(tree.path) if entry.is_dir()} == {*kept, Path(made.path).name}
    groups.remove(made.path)
    assert not Path(made.path).exists()


def no_memory(tree: Tree, _: pytest.MonkeyPatch) -> None:
    (tree.path / "cgroup.controllers").write_text("cpu pids")


def read_only(_: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)


def not_delegated(_: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.parametrize(
    ("host", "message"),
    [(no_memory, "no controller memory "), (read_only, "is not writable"), (not_delegated, "is not delegated")],
)
def test_nothing_is_moved_where_groups_cannot_be_had(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, host: Callable[[Tree, pytest.MonkeyPatch], None], message: str
) -> None:
    host(tree, monkeypatch)
    with pytest.raises(OSError, match=message):
        groups.make_below(str(tree.path), False)
    assert tree.procs() == ["11", "12"]


def test_a_group_that_does_not_work_is_removed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: groups.Groups) -> None:
        raise OSError("clone3: Function not implemented")

    monkeypatch.setattr(groups, "_try", fails)
    with pytest.raises(OSError, match="clone3"):
        groups.make_below(str(tree.path), True)
    assert [entry.name for entry in os.scandir(tree.path) if entry.is_dir()] == ["code-judge.service"]


def test_a_slot_has_the_limits_of_its_program(tree: Tree) -> None:
    made = groups.make_below(str(tree.path), True)
    group = made.add(128)
    folder = Path(made.path, group.name)

    def text(name: str) -> str:
        return (folder / name).read_text()

    assert (text("pids.max"), text("memory.swap.max"), text("memory.oom.group")) == ("128", "0", "1")
    group.prepare(1 << 28)
    assert int(text("memory.max")) == (1 << 28) + groups.ALLOWANCE
    near = (1 << 28) + groups.ALLOWANCE - (1 << 20)
    for current, files, full in ((1 << 28, 0, False), (near, 1 << 20, True), (near, 1 << 25, False)):
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon {current - files}\nactive_file {files}\ninactive_file 0\n")
        assert group.is_full() is full
    group.give_way(19)
    assert text("cpu.weight.nice") == "19"
    group.prepare(1 << 20)
    assert (int(text("memory.max")), text("cpu.weight.nice")) == ((1 << 20) + groups.ALLOWANCE, "0")
    group.kill()
    assert (text("cgroup.kill"), group.killed) == ("1", True)
    made.discard(group)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("status", "oom", "cpu", "why"),
    [
        (-signal.SIGKILL, 1, 0.1, "memory"),
        # What it met before its time was over comes first.
        (-signal.SIGKILL, 1, 9.0, "memory"),
        (-signal.SIGKILL, 0, 0.1, None),
        (-signal.SIGKILL, 0, 9.0, "timeout"),
        (0, 0, 0.1, None),
    ],
)
def test_who_is_killed_for_memory_is_told_from_who_kills_itself(
    tree: Tree, status: int, oom: int, cpu: float, why: str | None
) -> None:
    made = groups.make_below(str(tree.path), True)
    group = made.add(128)
    events = Path(made.path, group.name, "memory.events")
    # Of an earlier program in this slot.
    events.write_text("oom 7\n")
    group.prepare(1 << 28)
    events.write_text(f"oom {7 + oom}\noom_kill 9\n")
    job = Job(1, 99, Box("/box/1", 5, True, group=group), Clock(4.0, start=0.0, seen=0.0), 1 << 28, True, status=status)
    finish(job, cpu, 5.0)
    assert job.why == why


async def _run_in_groups(sources: list[str]) -> list[Execution]:
    """Skips where the host does not give the layer."""
    sandbox = Sandbox()
    try:
        await sandbox.start()
        if "cgroup" not in sandbox.layers:
            pytest.skip(f"this host does not give the layer cgroup: {sandbox.missing.get('cgroup')}")
        return [await sandbox.run(Program(source, "", 30, 128 << 20, 1 << 20)) for source in sources]
    finally:
        await sandbox.close()


HELLO = "print(open('/proc/self/cgroup').read())"
TOO_MUCH = "x = bytearray(b'x' * (1 << 30))"
IN_CHILDREN = (
    "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        x = bytearray(b'x' * (50 << 20))\n"
    "        time.sleep(60)\ntime.sleep(60)"
)
IN_A_SHORT_CHILD = "import os\nif os.fork() == 0:\n    x = bytearray(b'x' * (1 << 30))\nos.wait()\nprint('survived')"
BOMB = (
    "import os, time\nn = 1\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\n"
    "except OSError: print(n)"
)
SUICIDE = "import os\nos.kill(os.getpid(), 9)"


def test_the_kernel_keeps_the_limits() -> None:
    """On the kernel's own tree. Each program is followed by another one in the same slot."""
    programs = [HELLO, TOO_MUCH, HELLO, IN_CHILDREN, SUICIDE, IN_A_SHORT_CHILD, HELLO, BOMB, HELLO]
    ends = asyncio.run(_run_in_groups(programs))
    whys = [None, "memory", None, "memory", None, "memory", None, None, None]
    assert [end.why for end in ends] == whys
    assert all("/code-judge." in end.stdout for end, source in zip(ends, programs, strict=True) if source == HELLO)
    assert (ends[4].status, ends[7].stdout) == (-signal.SIGKILL, "128\n")
