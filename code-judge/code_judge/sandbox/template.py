"""The warm process that programs are forked from, and the first steps of such a fork.

It does nothing else, because every page that it writes after a fork is copied. Its forks are children of the zygote,
which waits for them. It is warmed up outside of the root, where bytecode can be cached, and enters the namespaces then.
Orders come over a SOCK_SEQPACKET socket: an Order (order.py) in marshal's form, and the descriptors that it names,
which arrive as FIRST_FD and the numbers after it. The answer is the number of the fork, or minus the number of the
error.
"""

import gc
import marshal
import os
import sys
import traceback
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET, socket
from os import closerange, dup2, fstat, pread, putenv, read, setsid
from typing import NoReturn

from code_judge.sandbox import filter, flavours, kernel, processes
from code_judge.sandbox.cell import become_session, rehearse_cells
from code_judge.sandbox.immortal import immortalize
from code_judge.sandbox.layers import Layers, join
from code_judge.sandbox.mappings import collapse_heap, join_mappings
from code_judge.sandbox.order import FIRST_FD, GROUP, ORDER_BYTES, ORDER_FDS, PATH, Order
from code_judge.sandbox.privileges import PROCESSES, STATES, limit
from code_judge.sandbox.user import become_binary, become_compiler, become_script, open_streams, rehearse

ORDERS_FD = 3
_ANCILLARY_BYTES = CMSG_SPACE(4 * ORDER_FDS)


def serve(orders: socket, flavour: str, *, for_sessions: bool = False) -> NoReturn:
    """Ends with the zygote. for_sessions: its forks are sessions, whose signals are guarded (guard.py)."""
    # See open_streams; the filter does not let us make one later.
    dup2(os.memfd_create("stdin", os.MFD_CLOEXEC), 0)
    most_processes = processes.fair_share(PROCESSES)
    flavours.warm(flavour)
    data, ancillary, _, _ = orders.recvmsg(ORDER_BYTES, _ANCILLARY_BYTES)
    if not data:
        os._exit(0)
    active = marshal.loads(data)
    guard = kernel.install_guard(filter.build_guard()) if for_sessions and "seccomp" in active else None
    layers = join(active, [fd for _, _, fds in ancillary for fd in memoryview(fds).cast("i")])
    orders_fd = orders.detach()
    if orders_fd != ORDERS_FD:
        dup2(orders_fd, ORDERS_FD, inheritable=False)
    orders = socket(fileno=ORDERS_FD)
    if guard is not None:
        dup2(guard, FIRST_FD, inheritable=False)
    closerange(FIRST_FD + (guard is not None), 1 << 20)
    if "cgroup" in layers.active:
        processes.be_killable()
    # A session's states have its user, too.
    limit(own_user="uid" in layers.active, processes=most_processes + (STATES if for_sessions else 0))
    kept_stderr = os.dup(2)
    rehearsed = open_streams()
    rehearse()
    if for_sessions:
        rehearse_cells()
    os.close(rehearsed)
    # Our own errors, if there are any.
    dup2(kept_stderr, 2)
    os.close(kept_stderr)
    # What is loaded now is shared by all forks; the collector must not touch it there.
    gc.collect()
    gc.disable()
    immortalize()
    gc.freeze()
    join_mappings()
    collapse_heap()
    orders.send(b"0")
    if for_sessions:
        rights = [(SOL_SOCKET, SCM_RIGHTS, FIRST_FD.to_bytes(4, sys.byteorder))] if guard is not None else []
        orders.sendmsg([b"guard"], rights)
        closerange(FIRST_FD, FIRST_FD + 1)
    _fork_for_ever(orders, layers)


def _fork_for_ever(orders: socket, layers: Layers) -> NoReturn:
    base_memory = processes.address_space()
    filter_address = layers.filter.address if layers.filter is not None else None
    keeps_signals, dies_with_parent = not layers.signals_inside, "pid" not in layers.active
    home, variables = None, os.environ._data  # type: ignore[attr-defined]
    receive, send, loads, fork = orders.recvmsg, orders.send, marshal.loads, kernel.fork_sibling
    while True:
        # The descriptors' numbers are known.
        data = receive(ORDER_BYTES, _ANCILLARY_BYTES, MSG_CMSG_CLOEXEC)[0]
        if not data:
            os._exit(0)
        order = loads(data)
        if home != order[PATH]:
            home = order[PATH]
            # As by os.environ, which calls more.
            variables[b"HOME"] = variables[b"TMPDIR"] = home.encode()
            putenv(b"HOME", home)
            putenv(b"TMPDIR", home)
        try:
            pid = fork(order[GROUP])
        except OSError as error:
            pid = -(error.errno or 1)
        if pid == 0:
            _become_program(order, base_memory, filter_address, keeps_signals, dies_with_parent)
        closerange(FIRST_FD, FIRST_FD + ORDER_FDS)
        send(b"%d" % pid)


def _become_program(
    order: Order, base_memory: int, filter_address: int | None, keeps_signals: bool, dies_with_parent: bool
) -> NoReturn:
    """What goes wrong in here is ours: the service sees that the program never started."""
    try:
        # A session is a share of the CPU of its own, whatever number of processes is in it (autogroup).
        setsid()
        (
            echo, memory, cpu_seconds, path, uid, command,
            stdin, stdout, stderr, status, ruleset, source, binary, artefact, _, kept, files, code,
        ) = order  # fmt: skip
        dup2(stdin, 0)
        dup2(stdout, 1)
        dup2(stderr, 2)
        dup2(status, 3, False)
        text = b"" if source is None else read(source, fstat(source)[6])
        # Other processes read it at the same time.
        compiled = None if code is None else pread(code, fstat(code)[6], 0)
        closerange(FIRST_FD + kept, FIRST_FD + ORDER_FDS)
        # The interpreter's own share is ours to give.
        place = path, uid, ruleset, memory + base_memory, cpu_seconds, filter_address, keeps_signals, dies_with_parent
        if binary is not None:
            become_binary(binary, place, files)
        elif artefact is not None:
            become_compiler(text, place, command, artefact, files, echo)
        elif source is None:
            become_session(place)
        else:
            become_script(text, place, echo, compiled, files)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)
