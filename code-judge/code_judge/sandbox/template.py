"""The warm process that programs are forked from, and the first steps of such a fork.

It does nothing else: what a process writes after a fork is copied page by page, in it and in the fork. Its forks are
children of the zygote, which waits for them. It is warmed up outside of the root, where bytecode can be cached,
and enters the namespaces then. Orders come over a SOCK_SEQPACKET socket as an Order in marshal's form and the
descriptors it speaks of, which arrive as FIRST_FD and the numbers after it. The answer is the number of the fork, or
minus the number of the error.
"""

import gc
import marshal
import os
import socket
import traceback
from typing import NamedTuple, NoReturn

from code_judge.sandbox import flavours, kernel, processes
from code_judge.sandbox.layers import Layers, join
from code_judge.sandbox.user import Limits, Place, become_binary, become_compiler, become_script, limit, open_streams

ORDERS_FD = 3
FIRST_FD = 4
ORDER_BYTES, ORDER_FDS = 1 << 16, 8


class Order(NamedTuple):
    """do: script | compile | execute. memory: bytes. cpu_seconds: s. uid, ruleset: as of Box. command: of the compiler.
    fds: the descriptors stdin, stdout, stderr, status, source of a script or a compiler, binary to execute, artefact
    for what is compiled; of them the first `kept` stay open until the program starts."""

    do: str
    echo: bool
    memory: int
    cpu_seconds: int
    path: str
    uid: int | None
    command: list[str]
    fds: dict[str, int]
    kept: int


def serve(orders: socket.socket, flavour: str) -> NoReturn:
    """Ends with the zygote."""
    flavours.warm(flavour)
    data, fds, _, _ = socket.recv_fds(orders, ORDER_BYTES, ORDER_FDS)
    if not data:
        os._exit(0)
    layers = join(marshal.loads(data), fds)
    if orders.fileno() != ORDERS_FD:
        os.dup2(orders.detach(), ORDERS_FD, inheritable=False)
        orders = socket.socket(fileno=ORDERS_FD)
    os.closerange(FIRST_FD, 1 << 20)
    limit(own_user="uid" in layers.active)
    open_streams()
    # What is loaded now is shared by all forks; the collector must not touch it there.
    gc.collect()
    gc.disable()
    gc.freeze()
    kernel.collapse_heap()
    base_memory = processes.address_space()
    orders.send(b"0")
    while True:
        # The descriptors' numbers are known.
        data = orders.recvmsg(ORDER_BYTES, socket.CMSG_SPACE(4 * ORDER_FDS), socket.MSG_CMSG_CLOEXEC)[0]
        if not data:
            os._exit(0)
        order = Order(*marshal.loads(data))
        if os.environ.get("HOME") != order.path:
            os.environ["HOME"] = os.environ["TMPDIR"] = order.path
        try:
            pid = kernel.fork_sibling()
        except OSError as error:
            pid = -(error.errno or 1)
        if pid == 0:
            _become_program(order, layers, base_memory)
        os.closerange(FIRST_FD, FIRST_FD + ORDER_FDS)
        orders.send(b"%d" % pid)


def _become_program(order: Order, layers: Layers, base_memory: int) -> NoReturn:
    """What goes wrong in here is ours: the service sees that the program never started."""
    try:
        # A session is a share of the CPU of its own, whatever number of processes is in it (autogroup).
        os.setsid()
        fds = order.fds
        for target, name in enumerate(("stdin", "stdout", "stderr", "status")):
            os.dup2(fds[name], target, inheritable=target < 3)
        # The interpreter's own share is ours to give.
        limits = Limits(order.memory + base_memory, order.cpu_seconds)
        place = Place(order.path, order.uid, fds.get("ruleset"), layers, limits, status_fd=3)
        if order.do == "execute":
            os.closerange(FIRST_FD + order.kept, FIRST_FD + ORDER_FDS)
            become_binary(fds["binary"], place)
        source = os.read(fds["source"], os.fstat(fds["source"]).st_size).decode("utf-8", "surrogatepass")
        os.closerange(FIRST_FD + order.kept, FIRST_FD + ORDER_FDS)
        if order.do == "compile":
            become_compiler(source, place, command=order.command, artefact_fd=fds["artefact"])
        become_script(source, place, echo=order.echo)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)
