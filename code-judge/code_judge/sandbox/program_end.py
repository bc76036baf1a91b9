"""How programs end: the part of the warden below what is said to it.

The end of a program is the end of everything it started: what outlives its first process comes to us, and is killed by
its user, all at once, or else one by one. Then its files are fetched, the service is told, and its box is made fresh.
"""

import contextlib
import json
import os
import socket
import time
from typing import Any

from code_judge.sandbox import census, layers, parcel, processes
from code_judge.sandbox.box import Boxes
from code_judge.sandbox.watch import Job, finish, kill_first_processes

SWEEP_TURN_SECONDS, SWEEP_PAUSE_SECONDS = 0.001, 0.05
SWEEP_SECONDS = 1.0
"""How long the end of a program's orphans may hold back its result."""


class Ends:
    """running: by process. own: processes of ours, which are the template, those that remove a folder, and those that
    kill a user's processes."""

    def __init__(self, control: socket.socket, template: int, found: layers.Layers, folder: str) -> None:
        """control: to the service. template: its process."""
        self._control = control
        self._layers = found
        self._boxes = Boxes(found, folder)
        self._running: dict[int, Job] = {}
        self._own = {template}
        self._ended: list[Job] = []

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
