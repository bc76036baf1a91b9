"""A program's input as a file in memory and its output as a pipe that is read up to a limit."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CHUNK = 65536
_PATIENCE_SECONDS = 0.05
"""Age of a program from which its pipes are watched. Most programs end sooner, and what they wrote is in the pipe."""


@contextmanager
def memory_file(content: str | bytes) -> Iterator[int]:
    """The content as a file descriptor that reads from the start, whatever its size."""
    fd = os.memfd_create("code-judge", os.MFD_CLOEXEC)
    try:
        data = memoryview(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


class Capture:
    """What a program writes, up to `limit` bytes.

    What is in the pipe when the program ends counts; end-of-file is not awaited, because a descendant may hold the pipe
    open. `on_overflow` is called once if there is more than the limit; nothing is read after that.
    """

    def __init__(self, limit: int, on_overflow: Callable[[], None]) -> None:
        self.overflowed = False
        self._limit = limit
        self._on_overflow = on_overflow
        self._data = bytearray()
        self._waiting: asyncio.TimerHandle | None = None
        self._reading = False
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        os.close(self._read_fd)
        if self.write_fd >= 0:
            os.close(self.write_fd)

    def start(self) -> None:
        """Call once the program has the writing end."""
        os.close(self.write_fd)
        self.write_fd = -1
        self._reading = True
        self._waiting = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._watch)

    def finish(self) -> bytes:
        """Call once the program has ended."""
        while self._reading and self._read():
            pass
        self._stop()
        return bytes(self._data)

    def _watch(self) -> None:
        self._waiting = None
        asyncio.get_running_loop().add_reader(self._read_fd, self._read)

    def _read(self) -> bool:
        """True if there may be more."""
        try:
            data = os.read(self._read_fd, _CHUNK)
        except BlockingIOError:
            return False
        self._data += data
        if len(self._data) > self._limit:
            del self._data[self._limit :]
            self.overflowed = True
            self._on_overflow()
        if not data or self.overflowed:
            self._stop()
        return self._reading

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        elif self._reading:
            asyncio.get_running_loop().remove_reader(self._read_fd)
        self._reading = False
