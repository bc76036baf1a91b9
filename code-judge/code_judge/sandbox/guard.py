"""Keeps a session's cells from signalling the states that they were forked from, which have the same user.

The calls of filter.build_guard wait in the kernel until the warden has answered them, through a descriptor (Linux 5.5).
Standard library only: the zygote imports it.
"""

import contextlib
import ctypes
import errno
import fcntl
import struct
from collections.abc import Container

from code_judge.sandbox.calls import own_number

_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_QUESTION = struct.Struct("QIIiIQ6Q")
_ANSWER = struct.Struct("QqiI")
_KILL, _SETPGID = own_number("kill"), own_number("setpgid")


def refusal(call: int, who: int, states: Container[int]) -> int:
    """The error that answers a call, by its number; 0: it goes on.

    who: the process, thread or group that it names. states: numbers of processes at rest, each with a group of the same
    number.
    """
    if call == _KILL and who == -1:
        return errno.EPERM
    if call == _SETPGID:
        return errno.EPERM if who in states else 0
    who = abs(who)
    # Any thread's number stands for its process.
    return errno.ESRCH if who in states or _process(who) in states else 0


def answer(fd: int, states: Container[int]) -> None:
    """Answer the call that waits; its process may have been killed meanwhile."""
    with contextlib.suppress(OSError):
        data = bytearray(_QUESTION.size)
        fcntl.ioctl(fd, _RECEIVE, data)
        ticket, _, _, call, _, _, *arguments = _QUESTION.unpack(data)
        who = ctypes.c_int32(arguments[call == _SETPGID] & 0xFFFFFFFF).value
        error = refusal(call, who, states)
        fcntl.ioctl(fd, _SEND, bytearray(_ANSWER.pack(ticket, 0, -error, 0 if error else _CONTINUE)))


def _process(thread: int) -> int | None:
    with contextlib.suppress(OSError), open(f"/proc/{thread}/status", "rb") as file:
        return next((int(line[5:]) for line in file if line.startswith(b"Tgid:")), None)
    return None
