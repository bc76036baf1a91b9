"""A program's files on their way into its folder and out of it, each way in one file in memory.

in    the length of a table in 4 bytes; the table, marshal's form of [name, size] of each file; their contents
out   at first a request: JSON of names or patterns to look for, and the most bytes to return. It is replaced by the
      contents, and a JSON table after them: [name, size] of each file, and {name: why it was left out}. The first
      HEADER bytes say where the table is. They are written last, so that what is unfinished is known as such.

Files are put there by the program's own process, once it has given up its privileges. They are taken out when all
processes of the program are dead, by a process of the warden's that has the program's user, follows no symbolic link
and opens nothing but regular files. Standard library only: the zygote imports it.
"""

import errno
import json
import marshal
import os
import signal
import stat
from collections.abc import Iterator, Sequence
from struct import Struct

from code_judge.sandbox import kernel

MOST_FETCHED, MOST_DEPTH, MOST_LOOKED = 1000, 16, 20_000
"""Files returned; folders below one another, and names in all, that a pattern is compared with."""
SECONDS = 10
"""For looking through the folder."""
HEADER = 16
_PLACE, _LENGTH = Struct("<QQ"), Struct("<I")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def pack(files: Sequence[tuple[str, bytes]]) -> bytes:
    table = marshal.dumps([(name, len(content)) for name, content in files])
    return b"".join((_LENGTH.pack(len(table)), table, *(content for _, content in files)))


def unpack(fd: int) -> None:
    """Into the current folder, which has none of these files yet. Raises OSError."""
    (length,) = _LENGTH.unpack(os.pread(fd, _LENGTH.size, 0))
    offset = _LENGTH.size + length
    for name, size in marshal.loads(os.pread(fd, length, _LENGTH.size)):
        if "/" in name:
            os.makedirs(os.path.dirname(name), exist_ok=True)
        file = os.open(name, _NEW, 0o644)
        try:
            _copy(fd, offset, size, file)
        finally:
            os.close(file)
        offset += size


def ask(patterns: Sequence[str], most: int) -> bytes:
    """The request, for `start`."""
    return json.dumps([list(patterns), most]).encode()


def answer(fd: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Contents by name, and why others were left out."""
    place, length = _PLACE.unpack(os.pread(fd, HEADER, 0).ljust(HEADER, b"\0"))
    if not length or os.fstat(fd).st_size != place + length:
        return {}, {"*": "the program's folder could not be looked through"}
    table, left_out = json.loads(os.pread(fd, length, place))
    files, offset = {}, HEADER
    for name, size in table:
        files[name] = os.pread(fd, size, offset)
        offset += size
    return files, left_out


def start(folder: str, uid: int | None, fd: int) -> int:
    """Begin to look through a program's folder for what `fd` asks for. Returns the process that does it, which the
    caller reaps. Raises OSError if it cannot be started."""
    pid = kernel.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            patterns, most = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
            os.ftruncate(fd, 0)
            os.ftruncate(fd, HEADER)
            os.chdir(folder)
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            _collect(patterns, most, fd)
        finally:
            os._exit(0)
    return pid


def _collect(patterns: list[str], most: int, fd: int) -> None:
    table: list[tuple[str, int]] = []
    left_out: dict[str, str] = {}
    place = HEADER
    for name in _names(patterns):
        if len(table) + len(left_out) >= MOST_FETCHED:
            left_out["*"] = f"there are more than {MOST_FETCHED} files"
            break
        try:
            name.encode()
        except UnicodeEncodeError:
            left_out[name.encode("utf-8", "replace").decode()] = "its name is not UTF-8"
            continue
        try:
            file = _open(name)
        except OSError as error:
            left_out[name] = "a symbolic link" if error.errno == errno.ELOOP else str(error.strerror)
            continue
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                left_out[name] = "not a regular file"
            elif found.st_size > most + HEADER - place:
                left_out[name] = f"its {found.st_size} bytes are more than what is left of {most} (MAX_FILES_SIZE)"
            else:
                os.lseek(fd, place, os.SEEK_SET)
                size = _copy(file, 0, found.st_size, fd)
                table.append((name, size))
                place += size
        finally:
            os.close(file)
    text = json.dumps([table, left_out]).encode()
    os.lseek(fd, place, os.SEEK_SET)
    write_all(fd, text)
    os.pwrite(fd, _PLACE.pack(place, len(text)), 0)


def write_all(fd: int, data: bytes) -> None:
    """os.write may write a part only. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _names(patterns: list[str]) -> list[str]:
    """Each once: names as they are, and what is there that fits one of the patterns."""
    found = [pattern for pattern in patterns if not any(sign in pattern for sign in "*?[")]
    if len(found) < len(patterns):
        from fnmatch import fnmatchcase

        globs = [pattern for pattern in patterns if pattern not in found]
        found += sorted(path for path in _walk() if any(fnmatchcase(path, pattern) for pattern in globs))
    return list(dict.fromkeys(found))


def _walk() -> Iterator[str]:
    """Paths of what is no folder."""
    waiting, looked = [""], 0
    while waiting:
        folder = waiting.pop()
        try:
            fd = _open(folder, _FOLDER) if folder else os.open(".", _FOLDER)
        except OSError:
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    looked += 1
                    if looked > MOST_LOOKED:
                        return
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if not entry.is_dir(follow_symlinks=False):
                        yield path
                    elif path.count("/") < MOST_DEPTH:
                        waiting.append(path)
        finally:
            os.close(fd)


def _open(path: str, flags: int = _FILE) -> int:
    """Below the current folder, with no symbolic link on the way. Raises OSError."""
    *folders, last = path.split("/")
    here = os.open(".", _FOLDER)
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, flags, dir_fd=here)
    finally:
        os.close(here)


def _copy(source: int, offset: int, size: int, target: int) -> int:
    """Bytes copied, to where `target` is."""
    left = size
    while left and (done := os.sendfile(target, source, offset, left)):
        offset, left = offset + done, left - done
    return size - left
