"""Starts programs by way of the template, and keeps their limits from outside of them.

Speaks JSON over a SOCK_SEQPACKET socket with the service:
    out  {"layers": [...], "missing": {layer: reason}}, once it is ready
    in   {"run": id, "do": script | compile | execute, "seconds", "memory", "echo", "command"}
         with the fds source or binary, stdin, stdout, stderr, status, and to compile, one for the binary
         {"kill": id, "why": kind}
    out  {"id": id, "status": exit status or -signal, "why": kind or null, "seconds": wall time}

The limits: wall and CPU time, memory of all of a program's processes, and the end of everything it started. What
outlives the program's first process comes to us, and is killed by its user, all at once, or else one by one.
"""

import contextlib
import json
import marshal
import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

from code_judge.sandbox import layers, processes
from code_judge.sandbox.box import Box, Boxes
from code_judge.sandbox.template import FIRST_FD, Order

CHECK_SECONDS = 0.25
SWEEP_PAUSE_SECONDS = 0.05
WARM_UP_SECONDS, FORK_SECONDS = 120.0, 5.0
"""Within which the template answers, or counts as lost: a program may have stopped it where both have one user."""
_KEPT = {"ruleset", "binary", "artefact"}
OLD_SECONDS = 0.5
"""Age from which a program gives way to younger ones."""
MANY_OLD = 2 * len(os.sched_getaffinity(0))
FEW_OLD_NICENESS, OLD_NICENESS = 5, 15
"""A few get their share beside whatever else the host does; many, most of them loops, get what the others leave."""
SWEEP_SECONDS = 1.0
"""How long the end of a program's orphans may hold back its result."""


@dataclass(slots=True)
class _Job:
    """limit: seconds. memory: bytes."""

    id: int
    box: Box
    start: float
    limit: float
    memory: int
    old: bool = False
    why: str | None = None
    status: int = 0
    end: float = 0.0
    next_sweep: float = 0.0
    reported: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """The process, and the descriptor of the socket that takes its orders."""

    pid: int
    orders: int


class TemplateLost(Exception):
    """Without it there is nothing to do for us."""


class Warden:
    def __init__(self, control: int, keeper: int, template: Template, found: layers.Layers, folder: str) -> None:
        """control: descriptor of the service's socket."""
        self._control = socket.socket(fileno=control)
        self._keeper = keeper
        self._template = template.pid
        self._orders = socket.socket(fileno=template.orders)
        self._layers = found
        self._boxes = Boxes(found, folder)
        self._running: dict[int, _Job] = {}
        # Processes of ours: those that remove a folder, and the template.
        self._own = {template.pid}
        self._ended: list[_Job] = []
        self._next_check = 0.0
        # A signal ends the select.
        self._wakeup, write = socket.socketpair()
        for end in (self._wakeup, write):
            end.setblocking(False)
        signal.set_wakeup_fd(write.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Returns when the service or the keeper has gone. Raises TemplateLost."""
        control, wakeup = self._control.fileno(), self._wakeup.fileno()
        poll = select.epoll()
        for end in (control, wakeup, self._keeper):
            poll.register(end, select.EPOLLIN)
        found = self._layers
        with contextlib.ExitStack() as opened:
            entered = layers.namespaces(found)
            for namespace in entered:
                opened.callback(os.close, namespace)
            self._orders.settimeout(WARM_UP_SECONDS)
            self._ask_template(sorted(found.active), entered)
            self._orders.settimeout(FORK_SECONDS)
        self._control.send(json.dumps({"layers": sorted(found.active), "missing": found.missing}).encode())
        while True:
            for end, _ in poll.poll(self._pause()):
                if end == wakeup:
                    self._wakeup.recv(4096)
                elif end != control or not self._command():
                    return
            self._check_limits()
            self._reap()
            self._report()

    def _command(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, 65536, 6)
        if not data:
            return False
        command = json.loads(data)
        if "run" in command:
            try:
                self._start(command, fds)
            finally:
                for fd in fds:
                    os.close(fd)
        else:
            for pid, job in self._running.items():
                if job.id == command["kill"]:
                    _kill(pid, job, command["why"])
        return True

    def _start(self, command: dict[str, Any], fds: list[int]) -> None:
        try:
            box = self._boxes.take()
        except OSError as error:
            return self._refuse(command, error)
        order, given = _order(command, fds, box)
        # The answer is the fork's number, or minus the error's.
        pid = self._ask_template(tuple(order), given)
        if pid < 0:
            self._put_back(box)
            return self._refuse(command, OSError(-pid, os.strerror(-pid)))
        job = _Job(command["run"], box, time.monotonic(), command["seconds"], command["memory"])
        # A compiler takes its time.
        job.old = command["do"] == "compile"
        self._running[pid] = job

    def _refuse(self, command: dict[str, Any], error: OSError) -> None:
        report = {"id": command["run"], "status": 1, "why": None, "seconds": 0, "error": str(error)}
        self._control.send(json.dumps(report).encode())

    def _ask_template(self, message: Any, fds: list[int]) -> int:
        """Its answer. It has no other work, so it is waited for."""
        try:
            socket.send_fds(self._orders, [marshal.dumps(message)], fds)
            answer = self._orders.recv(32)
        except OSError as error:
            raise TemplateLost(f"the process that programs are forked from is gone: {error}") from error
        if not answer:
            raise TemplateLost("the process that programs are forked from is gone")
        return int(answer)

    def _pause(self) -> float | None:
        if self._ended:
            return 0.001
        if not self._running:
            return None
        now = time.monotonic()
        first = min(job.start + job.limit for job in self._running.values())
        return max(0.0, min(first, self._next_check) - now)

    def _check_limits(self) -> None:
        now = time.monotonic()
        check = now >= self._next_check
        if check:
            self._next_check = now + CHECK_SECONDS
        used: dict[int, int] | None = None
        for pid, job in self._running.items():
            if job.why is not None:
                continue
            age = now - job.start
            if age >= job.limit:
                _kill(pid, job, "timeout")
            elif check and age >= CHECK_SECONDS:
                if processes.cpu_seconds(pid) >= job.limit:
                    _kill(pid, job, "timeout")
                if not job.old and age >= OLD_SECONDS:
                    many = sum(other.old for other in self._running.values()) >= MANY_OLD
                    job.old = True
                    processes.give_way(pid, OLD_NICENESS if many else FEW_OLD_NICENESS)
                if job.box.uid is not None:
                    used = processes.memory_by_user() if used is None else used
                    if used.get(job.box.uid, 0) > job.memory:
                        _kill(pid, job, "memory")

    def _reap(self) -> None:
        while True:
            try:
                # The dead leader keeps its group's number from being reused until we have killed the group.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            if pid == self._template:
                raise TemplateLost("the process that programs are forked from has ended")
            job = self._running.pop(pid, None)
            if job is not None:
                processes.kill_group(pid)
            _, status = os.waitpid(pid, 0)
            self._own.discard(pid)
            if job is not None:
                job.status, job.end = os.waitstatus_to_exitcode(status), time.monotonic()
                self._ended.append(job)

    def _report(self) -> None:
        """Tell how programs ended, once nothing of them lives, or after SWEEP_SECONDS of killing what does."""
        if not self._ended:
            return
        strangers = processes.children(spare=self._running.keys() | self._own)
        users = processes.users(strangers) if "uid" in self._layers.active else set()
        now = time.monotonic()
        for job in self._ended[:]:
            lives = job.box.uid in users if job.box.uid is not None else bool(strangers)
            if lives and now >= job.next_sweep:
                job.next_sweep = now + SWEEP_PAUSE_SECONDS
                if job.box.uid is not None:
                    processes.kill_user(job.box.uid)
                else:
                    processes.kill_each(strangers)
            if lives and now - job.end < SWEEP_SECONDS:
                continue
            if not job.reported:
                job.reported = True
                why = f'"{job.why}"' if job.why else "null"
                report = (
                    f'{{"id": {job.id}, "status": {job.status}, "why": {why}, "seconds": {job.end - job.start:.6f}}}'
                )
                with contextlib.suppress(BrokenPipeError):
                    # The service has gone; the next read says so.
                    self._control.send(report.encode())
            if not lives:
                self._ended.remove(job)
                self._put_back(job.box)

    def _put_back(self, box: Box) -> None:
        try:
            old = self._boxes.put_back(box)
        except OSError:
            # It is not used again.
            return
        if old is not None:
            self._own.add(os.posix_spawn("/bin/rm", ["rm", "-rf", "--", old], {}))


def _order(command: dict[str, Any], fds: list[int], box: Box) -> tuple[Order, list[int]]:
    """What the template is told, and the descriptors, those that stay open first."""
    first = "binary" if command["do"] == "execute" else "source"
    given = dict(zip((first, "stdin", "stdout", "stderr", "status", "artefact"), fds, strict=False))
    if box.ruleset is not None:
        given["ruleset"] = box.ruleset
    kept = given.keys() & _KEPT
    names = [*kept, *(given.keys() - kept)]
    there = {name: FIRST_FD + place for place, name in enumerate(names)}
    order = Order(
        echo=command["echo"],
        memory=command["memory"],
        cpu_seconds=int(command["seconds"]) + 1,
        path=box.path,
        uid=box.uid,
        command=command["command"],
        stdin=there["stdin"],
        stdout=there["stdout"],
        stderr=there["stderr"],
        status=there["status"],
        ruleset=there.get("ruleset"),
        source=there.get("source"),
        binary=there.get("binary"),
        artefact=there.get("artefact"),
        kept=len(kept),
    )
    return order, [given[name] for name in names]


def _kill(pid: int, job: _Job, why: str) -> None:
    job.why = job.why or why
    if job.old:
        # It takes the CPU to die.
        processes.give_way(pid, 0)
    # Not yet reaped, so the number is still its own; it may not have its own group yet.
    os.kill(pid, signal.SIGKILL)
    processes.kill_group(pid)
    if job.box.uid is not None:
        processes.kill_user(job.box.uid)
