"""A session's process: at rest it waits for the next cell, forks, and the fork runs the cell and comes to rest itself.

The state of a session is such a process: its memory is the interpreter with all variables. It never runs a cell itself,
so that what a cell does can be thrown away with the fork. The warden stops it with SIGSTOP while it is at rest.
The fork is a child of the zygote, as the session's first process is. Orders come on CONTROL_FD: marshal's form of
(cell's number, secret, echo, keep a failed cell's effects, undone), and the descriptors source, stdout, stderr and the
new process's control socket. What the fork sends on its own control socket, in this order:

    the error's number           by the state, if it cannot fork
    STARTED                      before the first line of the cell runs
    an exception_packet          if an exception ended the cell
    REST + secret                the cell has ended well; REST_FAILED + secret: it has failed and is to be kept

The secret keeps bytes that a cell writes to all its descriptors from being taken for its end.
Imported by the template only; standard library, little of it.
"""

import builtins
import ctypes
import linecache
import marshal
import os
import random
import signal
import sys
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, socket
from _thread import _count as other_threads
from gc import enable as enable_collector
from stat import S_ISREG
from types import ModuleType
from typing import Any, NoReturn

from code_judge.sandbox import kernel
from code_judge.sandbox.cell_code import CONTROL_FD, execute_and_report, join_threads, or_none
from code_judge.sandbox.privileges import Place, enter
from code_judge.sandbox.status import REST, REST_FAILED, STARTED
from code_judge.sandbox.user import REHEARSALS, flush, renew_random, set_thread_number

ORDER_BYTES, ORDER_FDS = 4096, 4
_ANCILLARY_BYTES = CMSG_SPACE(4 * ORDER_FDS)


def become_session(place: Place) -> NoReturn:
    """Never returns, unless it raises before the session has started. Standard input and output are /dev/null."""
    os.chdir(place[0])
    enter(place)
    renew_random()
    sys.argv[:] = [""]
    sys.path.insert(0, place[0])
    namespace = _new_main()
    enable_collector()
    os.write(CONTROL_FD, STARTED)
    while True:
        _next_cell(namespace, _Place())


def rehearse_cells() -> None:
    """As user.rehearse: what every cell does is done in the template, so that the pages it changes are shared."""
    main = sys.modules["__main__"]
    for place in range(REHEARSALS):
        namespace = _new_main()
        for source in (b"x = 1", b"x += 1", b"x\n", b"print('', x)"):
            execute_and_report(source, "<cell 0>", namespace, True)
            join_threads()
            flush()
        if place % 2:
            _stop_timers()
            _Place().restore()
        marshal.loads(marshal.dumps((place, b"", True, False, False)))
    del linecache.cache["<cell 0>"]
    sys.modules["__main__"] = main


def _new_main() -> dict[str, Any]:
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    return main.__dict__


class _Place:
    """Where the process is in its folder and in its files. Another cell's process may have moved that since: files are
    opened once for both."""

    def __init__(self) -> None:
        self._folder = or_none(os.getcwd)
        self._offsets = {}
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            if fd > CONTROL_FD:
                found, offset = or_none(os.fstat, fd), or_none(os.lseek, fd, 0, os.SEEK_CUR)
                if found is not None and offset is not None and S_ISREG(found.st_mode):
                    self._offsets[fd] = offset

    def restore(self) -> None:
        if self._folder is not None:
            or_none(os.chdir, self._folder)
        for fd, offset in self._offsets.items():
            or_none(os.lseek, fd, offset, os.SEEK_SET)


def _next_cell(namespace: dict[str, Any], place: _Place) -> None:
    """Returns in the fork, once its cell has ended and it is at rest in its place."""
    control = socket(fileno=CONTROL_FD)
    # Cells of this user can neither see it in /proc nor write into its memory.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    while True:
        data, ancillary, _, _ = control.recvmsg(ORDER_BYTES, _ANCILLARY_BYTES, MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        number, secret, echo, keep_failed, undone = marshal.loads(data)
        fds = memoryview(b"".join(fds for _, _, fds in ancillary)).cast("i").tolist()
        if undone:
            place.restore()
        try:
            pid = _fork()
        except OSError as error:
            or_none(os.write, fds[3], b"%d" % (error.errno or 1))
            pid = -1
        if pid == 0:
            break
        for fd in fds:
            os.close(fd)
    control.detach()
    _run(namespace, number, secret, echo=echo, keep_failed=keep_failed, fds=fds)


def _fork() -> int:
    if not other_threads():
        return kernel.fork_sibling()
    # Threads stay behind, and what they hold and wait for has to be made anew, as os.fork does; but for the random
    # numbers, which go on.
    numbers = random.getstate()
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = -1
    try:
        pid = kernel.fork_sibling()
    finally:
        (ctypes.pythonapi.PyOS_AfterFork_Parent if pid else ctypes.pythonapi.PyOS_AfterFork_Child)()
    if pid == 0:
        random.setstate(numbers)
    return pid


def _run(
    namespace: dict[str, Any], number: int, secret: bytes, *, echo: bool, keep_failed: bool, fds: list[int]
) -> None:
    source, stdout, stderr, control = fds
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    # A group of its own, so that a signal to its group does not reach the state that it was forked from.
    os.setpgid(0, 0)
    text = os.read(source, os.fstat(source).st_size)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.dup2(control, CONTROL_FD, inheritable=False)
    for fd in fds:
        os.close(fd)
    set_thread_number()
    os.write(CONTROL_FD, STARTED)
    code: int | None = 1
    try:
        code = execute_and_report(text, f"<cell {number}>", namespace, echo)
        code = join_threads() or code
        code = flush() or code
        if code == 0 or keep_failed:
            end, code = REST if code == 0 else REST_FAILED, 1
            _come_to_rest()
            # The control socket does not block: if the cell has filled or closed it, this raises, and it has failed.
            os.write(CONTROL_FD, end + secret)
            code = None
    finally:
        if code is not None:
            os._exit(code)


def _come_to_rest() -> None:
    """Nothing of the cell goes on: no timer, and its outputs are closed."""
    _stop_timers()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _stop_timers() -> None:
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
