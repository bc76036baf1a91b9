"""The warm interpreter that forks one process a program; a script of its own, started with a clean environment.

Arguments: the fd of a SOCK_SEQPACKET socket, a folder of its own, and the flavour. Speaks JSON over the socket:
    out  {"layers": [...], "missing": {layer: reason}}, once it is ready
    in   {"run": id, "do": script | compile | execute, "seconds", "memory", "echo", "command"}
         with the fds source or binary, stdin, stdout, stderr, status, and to compile, one for the binary
         {"kill": id, "why": kind}
    out  {"id": id, "status": exit status or -signal, "why": kind or null, "seconds": wall time}

The limits are kept here, outside of the program: wall and CPU time, memory of all its processes, and the end of
everything it started. What outlives the program's first process comes to us, and is killed by its user, all at once, or
else one by one. Two processes watch each other: the keeper outlives the zygote, ends what it left and then closes the
socket. Whichever of service, keeper and zygote is killed, the others end and leave nothing.
"""

import _signal
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any

_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, _PACKAGE_ROOT)
from code_judge.sandbox import flavours, kernel, layers, processes  # noqa: E402
from code_judge.sandbox.box import Box, Boxes  # noqa: E402
from code_judge.sandbox.user import Limits, Place, become_binary, become_compiler, become_script, open_streams  # noqa: E402

sys.path.remove(_PACKAGE_ROOT)

CHECK_SECONDS = 0.25
SWEEP_PAUSE_SECONDS = 0.05
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


class Zygote:
    def __init__(self, control: socket.socket, keeper: int, found: layers.Layers, folder: str) -> None:
        self._control = control
        self._keeper = keeper
        self._layers = found
        self._boxes = Boxes(found, folder)
        self._base_memory = processes.address_space()
        self._running: dict[int, _Job] = {}
        self._removing: set[int] = set()
        self._ended: list[_Job] = []
        self._next_check = 0.0
        # A signal ends the select.
        self._wakeup, write = socket.socketpair()
        for end in (self._wakeup, write):
            end.setblocking(False)
        signal.set_wakeup_fd(write.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Returns when the service or the keeper has gone."""
        control, wakeup = self._control.fileno(), self._wakeup.fileno()
        poll = select.epoll()
        for end in (control, wakeup, self._keeper):
            poll.register(end, select.EPOLLIN)
        self._control.send(
            json.dumps({"layers": sorted(self._layers.active), "missing": self._layers.missing}).encode()
        )
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
            # Here, where it stays done while the box is the same, and not in the fork.
            if os.environ.get("HOME") != box.path:
                os.environ["HOME"] = os.environ["TMPDIR"] = box.path
            pid = kernel.fork()
        except OSError as error:
            report = {"id": command["run"], "status": 1, "why": None, "seconds": 0, "error": str(error)}
            self._control.send(json.dumps(report).encode())
            return
        memory = command["memory"]
        if pid == 0:
            # The interpreter's own share is ours to give.
            limits = Limits(memory + self._base_memory, int(command["seconds"]) + 1)
            _become_program(command, fds, box, self._layers, limits)
        job = _Job(command["run"], box, time.monotonic(), command["seconds"], memory)
        # A compiler takes its time.
        job.old = command["do"] == "compile"
        self._running[pid] = job

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
            job = self._running.pop(pid, None)
            if job is not None:
                processes.kill_group(pid)
            _, status = os.waitpid(pid, 0)
            self._removing.discard(pid)
            if job is not None:
                job.status, job.end = os.waitstatus_to_exitcode(status), time.monotonic()
                self._ended.append(job)

    def _report(self) -> None:
        """Tell how programs ended, once nothing of them lives, or after SWEEP_SECONDS of killing what does."""
        if not self._ended:
            return
        strangers = processes.children(spare=self._running.keys() | self._removing)
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
            self._removing.add(os.posix_spawn("/bin/rm", ["rm", "-rf", "--", old], {}))


def _become_program(command: dict[str, Any], fds: list[int], box: Box, found: layers.Layers, limits: Limits) -> None:
    """Never returns. What goes wrong in here is ours: the service sees that the program never started."""
    try:
        signal.set_wakeup_fd(-1)
        # The module `signal` wraps it in an enumeration, which costs a fork more than all other preparations.
        _signal.signal(signal.SIGCHLD, _signal.SIG_DFL)
        # A session is a share of the CPU of its own, whatever number of processes is in it (autogroup).
        os.setsid()
        for target, fd in enumerate(fds[1:5]):
            os.dup2(fd, target, inheritable=target < 3)
        if box.ruleset is not None:
            box.ruleset = os.dup2(box.ruleset, 4, inheritable=False)
        extra = os.dup2(fds[5] if command["do"] == "compile" else fds[0], 5, inheritable=False)
        place = Place(box, found, limits, status_fd=3)
        if command["do"] == "execute":
            os.closerange(6, 1 << 20)
            become_binary(extra, place)
        source = os.read(fds[0], os.fstat(fds[0]).st_size).decode("utf-8", "surrogatepass")
        if command["do"] == "compile":
            os.closerange(6, 1 << 20)
            become_compiler(source, place, command=command["command"], artefact_fd=extra)
        os.closerange(5 if box.ruleset is not None else 4, 1 << 20)
        become_script(source, place, echo=command["echo"])
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)


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


def _keep(zygote: int, folder: str) -> None:
    """Wait for the zygote's end, end what it left, and only then let go of the socket."""
    os.waitpid(zygote, 0)
    processes.end_children()
    # Not in the zygote, which is the smaller for it.
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    control, folder, flavour = socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3]
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.pidfd_open(os.getpid())
    found = layers.leave_processes()
    zygote = os.fork()
    if zygote:
        _keep(zygote, folder)
        return
    if "pid" not in found.active:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    # Of no use to programs.
    del os.environ["LD_BIND_NOW"]
    flavours.warm(flavour)
    layers.enter(found, folder)
    try:
        server = Zygote(control, keeper, found, folder)
        open_streams()
        # What is loaded now is shared by all forks; the collector must not touch it there.
        gc.collect()
        gc.disable()
        gc.freeze()
        server.serve()
    finally:
        processes.end_children()


if __name__ == "__main__":
    main()
