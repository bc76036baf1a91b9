"""The warden of a zygote of sessions: opens them, runs their cells, and decides what is kept.

Speaks with the service as the warden of programs does (warden.py), about families of states (family.py):
    in   {"open": id, "family", "memory", "seconds"}            begin a family with its state 0
         {"cell": id, "family", "from": state, "to": state, "number", "seconds", "echo", "keep", "drop"}
         with the fds source, stdout and stderr
         {"drop": [states], "family"}, {"close": true, "family"}, {"kill": id, "why"}
    out  {"id": id, "status", "why", "seconds", "cpu", "started", "kept", "word"}   how a cell ended
         {"id": id, "status": 0 or 1, "error"}                  of an opening
         {"id": family, "fault": whether its own cells did it, "why": text}         a family that has ended unasked

A cell has ended well if its process says so with the secret of its order, is then stopped, and nothing else of the
session lives. Only then its folder is looked at, and the answer given.
"""

import array
import marshal
import os
import select
import signal
import socket
import time
from typing import Any

from code_judge.sandbox import census, guard, kernel
from code_judge.sandbox.box import FILENAME
from code_judge.sandbox.family import Cell, Family, State, stop
from code_judge.sandbox.files import Folder
from code_judge.sandbox.limits import Clock
from code_judge.sandbox.order import FIRST_FD, Order, address_space
from code_judge.sandbox.session_end import Endings
from code_judge.sandbox.status import REST, REST_FAILED, STARTED
from code_judge.sandbox.watch import finish, keep_outputs

MOST_PACKETS = 64
"""A cell that says more on its control socket is not listened to any longer, and cannot come to rest."""
_CREDENTIALS = socket.CMSG_SPACE(12)


class SessionWarden(Endings):
    def _set_up(self) -> None:
        _, fds, _, _ = socket.recv_fds(self._orders, 16, 1)
        kernel.ignore_stops()
        self._resident, _ = census.resident(self._template)
        if fds:
            self._guard = fds[0]
            self._poll.register(self._guard, select.EPOLLIN)

    # ---- what the service says -------------------------------------------------------------------------------------

    def _obey(self, command: dict[str, Any], fds: list[int]) -> None:
        if "open" in command:
            self._open(command)
        elif "cell" in command:
            self._begin(command, fds)
        elif "family" not in command:
            super()._obey(command, fds)
        elif (family := self._families.get(command["family"])) is not None:
            if "drop" in command:
                for number in command["drop"]:
                    self._drop(family, number)
            else:
                self._close(family)

    def _open(self, command: dict[str, Any]) -> None:
        try:
            box = self._boxes.take()
            os.unlink(os.path.join(box.path, FILENAME))
        except OSError as error:
            return self._send({"id": command["open"], "status": 1, "error": str(error)})
        assert box.uid is not None
        ours, theirs = _control_sockets()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        first = [] if box.ruleset is None else [box.ruleset]
        there = FIRST_FD + len(first)
        order = Order(
            echo=False,
            memory=address_space(command["memory"]),
            cpu_seconds=int(command["seconds"]) + 1,
            path=box.path,
            uid=box.uid,
            command=[],
            stdin=there,
            stdout=there,
            stderr=there,
            status=there + 1,
            ruleset=FIRST_FD if first else None,
            source=None,
            binary=None,
            artefact=None,
            group=None,
            kept=len(first),
        )
        with theirs:
            pid = self._ask_template(tuple(order), [*first, null, theirs.fileno()])
        os.close(null)
        if pid < 0:
            ours.close()
            self._put_back(box)
            return self._send({"id": command["open"], "status": 1, "error": os.strerror(-pid)})
        family = Family(command["family"], box, box.uid, Folder(box.path, box.uid), pid, command["memory"])
        self._families[family.id] = family
        self._states[pid] = family.states[0] = family.holds = State(pid, family, ours, {})
        self._opening[pid] = family, command["open"]
        self._listen(ours, pid)

    def _begin(self, command: dict[str, Any], fds: list[int]) -> None:
        family = self._families.get(command["family"])
        origin = None if family is None else family.states.get(command["from"])
        if family is None or origin is None or family.cell is not None:
            # A cell has broken it, and it was killed.
            return self._send(_not_begun(command["cell"], "broken", "its process has ended"))
        if family.holds is not origin and not self._restore(family, origin):
            return
        now = time.monotonic()
        ours, theirs = _control_sockets()
        cell = Cell(
            command["cell"],
            origin.pid,
            family.box,
            Clock(command["seconds"], start=now, seen=now),
            family.memory,
            may_be_old=True,
            outputs=keep_outputs(fds[1:3]),
            family=family,
            origin=origin,
            target=command["to"],
            keep=command["keep"],
            drop=command["drop"],
            secret=os.urandom(16),
            control=ours,
            # Until it has started, its process is the origin, which has used some before.
            orphans_cpu=-census.cpu(origin.pid) - origin.reaped_cpu,
        )
        order = (command["number"], cell.secret, command["echo"], cell.keep == "always", origin.undone)
        family.cell = self._running[origin.pid] = cell
        self._listen(ours, cell)
        try:
            with theirs:
                rights = array.array("i", [*fds, theirs.fileno()])
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                origin.control.sendmsg([marshal.dumps(order)], ancillary, socket.MSG_DONTWAIT)
            os.kill(origin.pid, signal.SIGCONT)
        except OSError as error:
            self._break(cell, f"its process takes no cells: {error}")

    # ---- what cells say --------------------------------------------------------------------------------------------

    def _listen(self, control: socket.socket, who: "Cell | int") -> None:
        self._speaking[control.fileno()] = who
        self._poll.register(control.fileno(), select.EPOLLIN)

    def _hear(self, end: int) -> bool:
        if end == self._guard:
            guard.answer(end, self._states)
        elif end == self._keeper:
            return False
        elif (who := self._speaking.get(end)) is not None:
            self._hear_out(who)
        return True

    def _hear_out(self, who: "Cell | int") -> None:
        control = self._states[who].control if isinstance(who, int) else who.control
        while control.fileno() in self._speaking:
            try:
                data, ancillary, _, _ = control.recvmsg(512, _CREDENTIALS)
            except OSError:
                return
            if not data:
                return self._ignore(control)
            pid, uid, _ = memoryview(ancillary[0][2][:12]).cast("i")
            if isinstance(who, int):
                if data == STARTED and pid == who:
                    self._ignore(control)
                    stop(who)
                    self._send({"id": self._opening.pop(who)[1], "status": 0})
            else:
                self._told(who, data, pid, uid)

    def _told(self, cell: Cell, data: bytes, pid: int, uid: int) -> None:
        """pid, uid: the sender's, from the kernel."""
        family = cell.family
        cell.packets += 1
        if not cell.started:
            if data == STARTED and uid == family.uid and self._is_new_child(pid):
                self._started(cell, pid)
            elif pid == cell.origin.pid and data.isdigit() and not _can_fork():
                stop(pid)
                cell.error = f"no process can be started on this host: {os.strerror(int(data))}"
                self._end(cell)
            else:
                self._break(cell, "its process does not fork any longer")
        elif data in (REST + cell.secret, REST_FAILED + cell.secret) and pid == cell.pid and not cell.ended:
            cell.ended = data[: -len(cell.secret)]
            stop(pid)
            del self._running[pid]
            cell.status = 0 if cell.ended == REST else 1
            finish(cell, census.cpu(pid), time.monotonic())
            self._end(cell)
        elif cell.packets > MOST_PACKETS:
            self._ignore(cell.control)
        else:
            cell.word = cell.word or data

    def _started(self, cell: Cell, pid: int) -> None:
        stop(cell.origin.pid)
        cell.origin.undone = True
        del self._running[cell.origin.pid]
        cell.pid, cell.started, cell.orphans_cpu = pid, True, 0.0
        self._running[pid] = cell
        if cell.why is not None:
            self._kill(cell, cell.why)

    def _is_new_child(self, pid: int) -> bool:
        if pid in self._states or pid in self._running or pid in self._own:
            return False
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True


def _not_begun(cell: int, why: str | None, error: str) -> dict[str, Any]:
    return {"id": cell, "status": 1, "started": False, "why": why, "seconds": 0, "cpu": 0, "error": error}


def _control_sockets() -> tuple[socket.socket, socket.socket]:
    """Ours, which learns from the kernel who speaks, and that of a session's process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def _can_fork() -> bool:
    try:
        pid = kernel.fork()
    except OSError:
        return False
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True
