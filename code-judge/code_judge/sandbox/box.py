"""A slot of the zygote: a user, a folder and a Landlock ruleset of its own, used by one program after the other.

Standard library only: the zygote imports it.
"""

import os
from dataclasses import dataclass

from code_judge.sandbox import kernel
from code_judge.sandbox.groups import Group
from code_judge.sandbox.layers import Layers, ruleset
from code_judge.sandbox.privileges import PROCESSES
from code_judge.sandbox.processes import fair_share
from code_judge.sandbox.root import BOXES, fresh_box

FILENAME = "solution.py"


@dataclass(slots=True)
class Box:
    """uid, ruleset, group: None without the layers uid, landlock and cgroup."""

    path: str
    uid: int | None
    tmpfs: bool
    ruleset: int | None = None
    group: Group | None = None
    _seen: tuple[object, ...] = ()

    def is_untouched(self) -> bool:
        """True if the folder holds what `refresh` left there, but for the content of the source file."""
        try:
            return self._state() == self._seen
        except OSError:
            return False

    def used(self) -> int:
        """Bytes of memory that the folder takes."""
        if not self.tmpfs:
            return 0
        found = os.statvfs(self.path)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def refresh(self, layers: Layers) -> None:
        """An empty folder with an empty source file, which the next program's source replaces without a trace."""
        if self.tmpfs:
            if self.ruleset is not None:
                kernel.unmount(self.path)
            fresh_box(self.path, self.uid or 0)
        else:
            os.mkdir(self.path, 0o700)
        source = os.open(os.path.join(self.path, FILENAME), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        if self.uid is not None:
            os.chown(self.path, self.uid, self.uid)
            os.fchown(source, self.uid, self.uid)
        os.close(source)
        self._seen = self._state()
        if self.ruleset is not None:
            os.close(self.ruleset)
            self.ruleset = None
        if "landlock" in layers.active:
            self.ruleset = ruleset(layers, self.path)

    def _state(self) -> tuple[object, ...]:
        """All that a program can change, but for the content of the source file."""
        source_path = f"{self.path}/{FILENAME}"
        folder, source = os.stat(self.path), os.lstat(source_path)
        seen = (
            folder.st_mode,
            folder.st_uid,
            folder.st_gid,
            folder.st_ino,
            source.st_mode,
            source.st_ino,
            source.st_nlink,
            *os.listxattr(source_path, follow_symlinks=False),
        )
        if kernel.FINE_TIMES:
            # Every change of the folder gives it another time.
            return folder.st_ctime_ns, *seen
        return tuple(os.listdir(self.path)), tuple(os.listxattr(self.path)), *seen


class Boxes:
    """Hands out boxes; makes as many as are in use at a time."""

    def __init__(self, layers: Layers, root: str) -> None:
        self._layers = layers
        self._root = BOXES if "tmpfs" in layers.active else root
        self._free: list[Box] = []
        self._made = 0
        self._folders = 0

    def take(self) -> Box:
        """Raises OSError."""
        if self._free:
            return self._free.pop()
        layers = self._layers.active
        box = Box(
            self._new_path(),
            uid=self._layers.killer_uid + 1 + self._made if "uid" in layers else None,
            tmpfs="tmpfs" in layers,
        )
        if box.tmpfs:
            os.mkdir(box.path, 0o711)
        if self._layers.groups is not None:
            box.group = self._layers.groups.add(fair_share(PROCESSES))
        box.refresh(self._layers)
        self._made += 1
        return box

    def put_back(self, box: Box) -> str | None:
        """Call when all of its processes are dead. Returns a folder for the caller to remove."""
        old = None
        if not box.is_untouched():
            if not box.tmpfs:
                old, box.path = box.path, self._new_path()
            box.refresh(self._layers)
        if self._layers.groups is not None and box.group is not None and box.group.killed:
            self._layers.groups.discard(box.group)
            box.group = self._layers.groups.add(fair_share(PROCESSES))
        self._free.append(box)
        return old

    def _new_path(self) -> str:
        self._folders += 1
        return os.path.join(self._root, str(self._folders))
