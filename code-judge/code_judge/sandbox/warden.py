"""Starts programs by way of the template, and sees to their end.

Speaks JSON over a SOCK_SEQPACKET socket with the service:
    out  {"layers": [...], "missing": {layer: reason}}, once it is ready
    in   {"run": id, "do": script | compile | execute, "seconds", "cpu", "memory", "echo", "command",
          "more"}
         with the fds source or binary, stdin, stdout, stderr, status, and those that "more" names: artefact,
         code, files, fetch, in this order
         {"kill": id, "why": kind}
         {"ping": number}
    out  {"id": id, "status": exit status or -signal, "why": kind or null, "seconds": wall time}
         with "error" instead of a meaning where the program could not be started
         {"id": id, "idle": whether it waits for something else than a core}, when that has changed
         {"pong": number}

The limits of a running program are kept in watch.py. The end of a program is the end of everything it started: what
outlives its first process comes to us, and is killed by its user, all at once, or else one by one. Nothing here waits
for a program.
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

from code_judge.sandbox import census, layers, parcel, processes
from code_judge.sandbox.box import Boxes
from code_judge.sandbox.limits import Clock
from code_judge.sandbox.order import make_order
from code_judge.sandbox.watch import Job, Watch, finish, kill_first_processes

SWEEP_TURN_SECONDS, SWEEP_PAUSE_SECONDS = 0.001, 0.05
WARM_UP_SECONDS, FORK_SECONDS = 120.0, 5.0
"""Within which the template answers, or counts as lost."""
SWEEP_SECONDS = 1.0
"""How long the end of a program's orphans may hold back its result."""


@dataclass(frozen=True, slots=True)
class Template:
    """The process, and the descriptor of the socket that takes its orders."""

    pid: int
    orders: int


class TemplateLost(Exception):
    """No program can be started any longer, so the zygote ends."""


class Warden:
    def __init__(self, control: int, keeper: int, template: Template, found: layers.Layers, folder: str) -> None:
        """control: descriptor of the service's socket. keeper: of the keeper's process."""
        self._control = socket.socket(fileno=control)
        self._keeper = keeper
        self._template = template.pid
        self._orders = socket.socket(fileno=template.orders)
        self._layers = found
        self._boxes = Boxes(found, folder)
        self._running: dict[int, Job] = {}
        # Processes of ours: the template, those that remove a folder, those that kill a user's processes.
        self._own = {template.pid}
        self._ended: list[Job] = []
        self._watch = Watch(
            own_processes="mount" in found.active, template=template.pid, kill=self._kill, tell=self._tell_idle
        )
        # A signal ends the select.
        self._poll = select.epoll()
        self._wakeup, write = socket.socketpair()
        for end in (self._wakeup, write):
            end.setblocking(False)
        signal.set_wakeup_fd(write.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Returns when the service or the keeper has gone. Raises TemplateLost."""
        control, wakeup = self._control.fileno(), self._wakeup.fileno()
        for end in (control, wakeup, self._keeper):
            self._poll.register(end, select.EPOLLIN)
        found = self._layers
        with contextlib.ExitStack() as opened:
            entered = layers.namespaces(found)
            for namespace in entered:
                opened.callback(os.close, namespace)
            self._orders.settimeout(WARM_UP_SECONDS)
            self._ask_template(sorted(found.active), entered)
            self._orders.settimeout(FORK_SECONDS)
        self._set_up()
        self._send({"layers": sorted(found.active), "missing": found.missing})
        while True:
            for end, _ in self._poll.poll(self._pause()):
                if end == wakeup:
                    self._wakeup.recv(4096)
                elif not (self._command() if end == control else self._hear(end)):
                    return
            self._watch.check(self._running.values())
            self._reap()
            self._report()

    def _pause(self) -> float | None:
        return SWEEP_TURN_SECONDS if self._ended else self._watch.pause(self._running.values())

    def _set_up(self) -> None:
        """Called once the template is warm."""

    def _hear(self, end: int) -> bool:
        """False if this was the last of it. Nobody else speaks to us, so the keeper has gone."""
        return False

    def _command(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 65536, 8)
        except ConnectionResetError:
            # The service went without reading what was sent to it.
            return False
        if not data:
            return False
        try:
            self._obey(json.loads(data), fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _obey(self, command: dict[str, Any], fds: list[int]) -> None:
        if "run" in command:
            self._start(command, fds)
        elif "ping" in command:
            self._send({"pong": command["ping"]})
        else:
            for job in self._running.values():
                if job.id == command["kill"]:
                    self._kill(job, command["why"])
                    break

    def _start(self, command: dict[str, Any], fds: list[int]) -> None:
        try:
            box = self._boxes.take()
            if box.group is not None:
                box.group.prepare(command["memory"])
        except OSError as error:
            return self._refuse(command, error)
        order, given = make_order(command, fds, box)
        # The answer is the fork's number, or minus the error's.
        pid = self._ask_template(tuple(order), given)
        if pid < 0:
            self._put_back(box)
            return self._refuse(command, OSError(-pid, os.strerror(-pid)))
        now = time.monotonic()
        # A compiler takes its time, and has its own limit.
        may_be_old = command["do"] != "compile"
        clock = Clock(command["seconds"], start=now, seen=now, most_cpu=command["cpu"])
        job = self._running[pid] = Job(command["run"], pid, box, clock, command["memory"], may_be_old)
        if "fetch" in command["more"]:
            job.fetch = os.dup(fds[-1])

    def _refuse(self, command: dict[str, Any], error: OSError) -> None:
        self._send({"id": command["run"], "status": 1, "why": None, "seconds": 0, "error": str(error)})

    def _ask_template(self, message: Any, fds: list[int]) -> int:
        """Its answer. It has no other work, so it is waited for, up to the socket's time-out."""
        try:
            socket.send_fds(self._orders, [marshal.dumps(message)], fds)
            answer = self._orders.recv(32)
        except OSError as error:
            raise TemplateLost(f"the process that programs are forked from is gone: {error}") from error
        if not answer:
            raise TemplateLost("the process that programs are forked from is gone")
        return int(answer)

    def _reap(self) -> None:
        while True:
            try:
                # The dead leader keeps its group's number from being reused until we have killed the group.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid == self._template:
                raise TemplateLost("the process that programs are forked from has ended")
            self._reap_child(ended.si_pid)

    def _reap_child(self, pid: int) -> None:
        """pid: of a child that has ended; it is waited for here."""
        job = self._running.pop(pid, None)
        if job is not None:
            processes.kill_group(pid)
        owner = None if job is not None or pid in self._own else self._running.get(census.session(pid) or 0)
        _, status, usage = os.wait4(pid, 0)
        self._own.discard(pid)
        if job is not None:
            job.status = os.waitstatus_to_exitcode(status)
            finish(job, usage.ru_utime + usage.ru_stime, time.monotonic())
            self._ended.append(job)
        elif owner is not None:
            # An orphan of a program that runs on; the program's own times do not have it.
            owner.orphans_cpu += usage.ru_utime + usage.ru_stime

    def _report(self) -> None:
        """Tell how programs ended, once nothing of them lives, or after SWEEP_SECONDS of killing what does."""
        if not self._ended:
            return
        strangers = processes.children(spare=self._running.keys() | self._own)
        now = time.monotonic()
        for job in self._ended[:]:
            left = [pid for pid in strangers if _belongs(pid, job)]
            overdue = now - job.end >= SWEEP_SECONDS
            # It kills all that has the program's user: the process that fetches, and the next program in the box.
            killing = job.killer in self._own
            fetches = job.collector in self._own or (overdue and job.fetch is not None)
            if left and now >= job.next_sweep and not killing and not fetches:
                job.next_sweep = now + SWEEP_PAUSE_SECONDS
                self._sweep(job, left)
                killing = job.killer in self._own
            if (left or killing) and not overdue:
                continue
            if job.fetch is not None and (killing or not self._has_fetched(job, job.fetch)):
                continue
            if not job.reported:
                job.reported = True
                self._tell_end(job)
            if not left and not killing:
                self._ended.remove(job)
                self._put_back(job.box)

    def _has_fetched(self, job: Job, fetch: int) -> bool:
        """Whether it is done, or cannot be. Begins with it the first time."""
        if job.collector is None:
            try:
                job.collector = parcel.start(job.box.path, job.box.uid, fetch)
                self._own.add(job.collector)
            except OSError:
                job.collector = 0
        if job.collector in self._own:
            return False
        os.close(fetch)
        job.fetch = None
        return True

    def _kill(self, job: Job, why: str) -> None:
        job.why = job.why or why
        kill_first_processes(job)
        if job.box.group is None and job.box.uid is not None:
            self._sweep(job, job.pids)

    def _sweep(self, job: Job, left: list[int]) -> None:
        """Kill what there may be of a program, of which `left` is certain."""
        if job.box.group is not None:
            job.box.group.kill()
            return
        if job.box.uid is None:
            processes.kill_each(left)
            return
        try:
            job.killer = processes.kill_user(job.box.uid, self._layers.killer_uid)
            self._own.add(job.killer)
        except OSError:
            # No process more can be started; the next sweep tries again.
            processes.kill_all(left)

    def _tell_idle(self, job: Job) -> None:
        self._send({"id": job.id, "idle": job.idle})

    def _tell_end(self, job: Job) -> None:
        why = f'"{job.why}"' if job.why else "null"
        seconds = job.end - job.clock.start
        report = f'{{"id": {job.id}, "status": {job.status}, "why": {why}, "seconds": {seconds:.6f}}}'
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(report.encode())

    def _send(self, message: dict[str, Any]) -> None:
        # If the service has gone, the next read says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(message).encode())

    def _put_back(self, box: Any) -> None:
        # A box that cannot be made fresh is not used again.
        with contextlib.suppress(OSError):
            old = self._boxes.put_back(box)
            if old is not None:
                self._own.add(os.posix_spawn("/bin/rm", ["rm", "-rf", "--", old], {}))


def _belongs(pid: int, job: Job) -> bool:
    """Whether a process that has come to us is of this program: by its user, or else by its session."""
    if job.box.uid is not None:
        return processes.user(pid) == job.box.uid
    return census.session(pid) in (job.session, None)
