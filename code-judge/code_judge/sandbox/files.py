"""What is in a session's folder, to go back to: each state has a listing, and a copy of every file that it names.

The folder is looked at only while all processes of the session are stopped or dead, so nothing changes under us. What
has not changed since the last look is neither read nor copied again, and states share the copies. Going back writes
into the files that are there, so that who has them open sees the old content.
Standard library only: the zygote imports it.
"""

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from code_judge.sandbox import kernel

MOST_BYTES = 128 << 20
"""Of the copies that a session's states hold together."""
MOST_DEPTH = 32
_TICK_NS = 20_000_000
"""Two changes within a tick of the kernel's clock may have the same time."""


class TooMuch(Exception):
    """The folder cannot be kept: it is too deep, or the copies would be too large."""


@dataclass(frozen=True, slots=True)
class Content:
    """Of a regular file: its size, and what is not a hole, by offset. `weight`: bytes that the copy takes."""

    size: int
    parts: tuple[tuple[int, bytes], ...]

    @property
    def weight(self) -> int:
        return sum(len(part) for _, part in self.parts)


@dataclass(frozen=True, slots=True)
class Entry:
    """mode: with the type. content: of a regular file, or where a symbolic link leads. modified: in ns. seen: inode and
    times at the last look, to find out whether it has changed."""

    mode: int
    content: Content | str | None
    modified: int
    seen: tuple[int, ...]

    def same_as(self, other: "Entry") -> bool:
        return self.mode == other.mode and self.modified == other.modified and self.content is other.content


Listing = dict[str, Entry]
"""By path below the folder; a folder comes before what is in it."""


class Folder:
    """`path`: owned by the session's user. `now`: what is there, as far as it is known."""

    def __init__(self, path: str, uid: int) -> None:
        self.path = path
        self._uid = uid
        self.now: Listing = {}

    def capture(self) -> Listing:
        """What is there now. Raises TooMuch."""
        now: Listing = {}
        started = time.time_ns()
        for name, found in _walk(self.path):
            entry = self.now.get(name)
            signature = _signature(found)
            if entry is None or entry.seen != signature:
                # Changed a moment ago: a change that follows could not be seen.
                settled = kernel.FINE_TIMES or started - found.st_ctime_ns > _TICK_NS
                entry = Entry(
                    found.st_mode, _read(f"{self.path}/{name}", found), found.st_mtime_ns, signature if settled else ()
                )
            now[name] = entry
        self.now = now
        return now

    def restore(self, wanted: Listing) -> None:
        """Make the folder what `wanted` says. Raises OSError."""
        there: Listing = {}
        for name, found in _walk(self.path, deep=True):
            entry, known = wanted.get(name), self.now.get(name)
            path = f"{self.path}/{name}"
            if entry is None or stat.S_IFMT(entry.mode) != stat.S_IFMT(found.st_mode):
                remove(path, found)
            elif known is not None and known.seen == _signature(found) and known.same_as(entry):
                there[name] = known
            elif stat.S_ISLNK(entry.mode):
                os.unlink(path)
        now: Listing = {}
        for name, entry in wanted.items():
            now[name] = there.get(name) or self._write(name, entry)
        # A folder's time changes with what is put into it.
        for name in reversed(now):
            if stat.S_ISDIR(now[name].mode):
                now[name] = self._settle(name, now[name])
        self.now = now

    def _write(self, name: str, entry: Entry) -> Entry:
        path = f"{self.path}/{name}"
        if stat.S_ISDIR(entry.mode):
            if not os.path.isdir(path):
                os.mkdir(path)
        elif stat.S_ISLNK(entry.mode):
            os.symlink(str(entry.content), path)
        elif stat.S_ISFIFO(entry.mode):
            if not os.path.lexists(path):
                os.mkfifo(path)
        elif isinstance(entry.content, Content):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, entry.content.size)
                for offset, part in entry.content.parts:
                    _write_all(fd, part, offset)
            finally:
                os.close(fd)
        return self._settle(name, entry)

    def _settle(self, name: str, entry: Entry) -> Entry:
        """Owner, rights and times as they were; and note how it looks now."""
        path = f"{self.path}/{name}"
        os.chown(path, self._uid, self._uid, follow_symlinks=False)
        if not stat.S_ISLNK(entry.mode):
            os.chmod(path, stat.S_IMODE(entry.mode))
        os.utime(path, ns=(entry.modified, entry.modified), follow_symlinks=False)
        # Without fine times, the next look reads it once more.
        seen = _signature(os.lstat(path)) if kernel.FINE_TIMES else ()
        return Entry(entry.mode, entry.content, entry.modified, seen)


def weight(listings: "list[Listing]") -> int:
    """Bytes of copies, each counted once."""
    contents = {id(e.content): e.content for listing in listings for e in listing.values()}
    return sum(content.weight for content in contents.values() if isinstance(content, Content))


def remove(path: str, found: os.stat_result) -> None:
    """A folder with all that is in it, however deep."""
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(path)
        return
    pid = os.posix_spawn("/bin/rm", ["rm", "-rf", "--", path], {})
    os.waitpid(pid, 0)


def _walk(root: str, *, deep: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """Paths below the root and what they are, a folder before what is in it. deep: leave out what is below MOST_DEPTH
    or gone, instead of raising TooMuch."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            names = sorted(os.listdir(f"{root}/{folder}"))
        except FileNotFoundError:
            continue
        for name in names:
            path = f"{folder}/{name}" if folder else name
            found = os.lstat(f"{root}/{path}")
            yield path, found
            if stat.S_ISDIR(found.st_mode):
                if path.count("/") < MOST_DEPTH:
                    waiting.append(path)
                elif not deep:
                    raise TooMuch(f"folders are nested more than {MOST_DEPTH} deep")


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: str, found: os.stat_result) -> Content | str | None:
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(found.st_mode):
        return None
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    parts = []
    try:
        offset = 0
        while offset < found.st_size:
            try:
                offset = os.lseek(fd, offset, os.SEEK_DATA)
            except OSError:
                # Only a hole is left.
                break
            end = os.lseek(fd, offset, os.SEEK_HOLE)
            while offset < end:
                part = os.pread(fd, end - offset, offset)
                if not part:
                    break
                parts.append((offset, part))
                offset += len(part)
    finally:
        os.close(fd)
    return Content(found.st_size, tuple(parts))


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
