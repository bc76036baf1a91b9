"""Starts programs by way of the template, as the service tells it to.

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

The limits of a running program are kept in watch.py, and program_end.py sees to its end. Nothing here waits for a
program.
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

from code_judge.sandbox import layers
from code_judge.sandbox.limits import Clock
from code_judge.sandbox.order import make_order
from code_judge.sandbox.program_end import SWEEP_TURN_SECONDS, Ends
from code_judge.sandbox.watch import Job, Watch, keep_outputs

WARM_UP_SECONDS, FORK_SECONDS = 120.0, 5.0
"""Within which the template answers, or counts as lost."""


@dataclass(frozen=True, slots=True)
class Template:
    """The process, and the descriptor of the socket that takes its orders."""

    pid: int
    orders: int


class TemplateLost(Exception):
    """No program can be started any longer, so the zygote ends."""


class Warden(Ends):
    def __init__(self, control: int, keeper: int, template: Template, found: layers.Layers, folder: str) -> None:
        """control: descriptor of the service's socket. keeper: of the keeper's process."""
        super().__init__(socket.socket(fileno=control), template.pid, found, folder)
        self._keeper = keeper
        self._template = template.pid
        self._orders = socket.socket(fileno=template.orders)
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
            # What has ended while we waited for a core must not be looked at: it would seem to sleep.
            self._reap()
            self._watch.check(self._running.values())
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
        outputs = keep_outputs(fds[2:4])
        job = Job(command["run"], pid, box, clock, command["memory"], may_be_old, outputs=outputs)
        self._running[pid] = job
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

    def _tell_idle(self, job: Job) -> None:
        self._send({"id": job.id, "idle": job.idle})
