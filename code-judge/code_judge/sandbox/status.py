"""The channel on which a program's process tells the service that it started, and which exception ended it.

It is a socket with packets. What was sent cannot be taken back, and the sending end cannot be read. The first packet is
sent before the first line of the program runs. Everything after it may come from the program itself, so the reader
takes any bytes, reads a bounded number of them, and believes only what has the right form. What it reads names a
failure; it never decides whether there was one.
"""

import re
from _socket import AF_UNIX, SOCK_NONBLOCK, SOCK_SEQPACKET, socketpair

STARTED = b"started"
REST, REST_FAILED = b"at rest ", b"failed and at rest "
"""Of a session's cell; see cell.py."""
RESERVED_KINDS = frozenset(("ok", "timeout", "memory", "output_limit", "nonzero_exit", "compile_error", "exited"))
"""Given by the service only. An exception class of such a name is reported as `nonzero_exit`."""
_PACKET_BYTES = 512
_NAME_LENGTH = 80
_LINE = re.compile("[1-9][0-9]{0,6}")


class StatusChannel:
    """`write_fd` goes to the program's process."""

    def __init__(self) -> None:
        # Non-blocking at both ends: a program that fills the channel must not stop the end of its own process.
        self._ours, self._theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK)

    def __enter__(self) -> "StatusChannel":
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._theirs.close()

    @property
    def write_fd(self) -> int:
        return self._theirs.fileno()

    def start(self) -> None:
        """Call once the program has the writing end."""
        self._theirs.close()

    def finish(self) -> tuple[bool, str | None, int | None]:
        """Whether the program started; name and line of the exception that ended it. Call when it has ended."""
        started = self._packet() == STARTED
        return started, *read_exception(self._packet())

    def _packet(self) -> bytes:
        try:
            return self._ours.recv(_PACKET_BYTES)
        except OSError:
            return b""


def exception_packet(name: str, line: int | None) -> bytes:
    return f"{name} {line or ''}".encode("utf-8", "replace")


def read_exception(packet: bytes) -> tuple[str | None, int | None]:
    """The inverse of `exception_packet`; None for what has not the right form."""
    name, _, line = packet.decode("utf-8", "replace").partition(" ")
    if not name.isidentifier() or len(name) > _NAME_LENGTH or name in RESERVED_KINDS:
        return None, None
    return name, int(line) if _LINE.fullmatch(line) else None
