"""The service's side of one zygote: starts it, hands it programs, learns how they ended, watches that it lives."""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from code_judge.sandbox.interpreter import OPTIONS
from code_judge.tasks import background

ZYGOTE = Path(__file__).with_name("zygote.py")
CLEANUP_SECONDS = 5
START_SECONDS = 60
BEAT_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""A zygote that has said nothing for this long after it was asked is held to be stuck, and is replaced."""
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    # Else every fork looks up again what the zygote has not called yet.
    "LD_BIND_NOW": "1",
    # A program has one core; thread pools per core would only cost it time.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_FOR_TESTS = ("CODE_JUDGE_IMITATE_KERNEL",)


class SandboxLost(Exception):
    """The sandbox failed; nothing is known of the program. Our failure, not the program's."""


@dataclass(eq=False, slots=True)
class _Running:
    """ended: the report. on_idle: called with True when the program waits for something else than a core, with False
    when it does so no longer. deadline: on the loop's clock; a report that is later will not come any more."""

    ended: "asyncio.Future[dict[str, Any]]"
    on_idle: Callable[[bool], None]
    deadline: float


class Link:
    """One life of a zygote. `layers`, `missing`: see zygote.py. `cleaned`: done when nothing of it is left."""

    def __init__(self, flavour: str, python: str = "") -> None:
        """python: see interpreter.py."""
        self.layers: tuple[str, ...] = ()
        self.missing: dict[str, str] = {}
        self.alive = True
        self._running: dict[int, _Running] = {}
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self.cleaned: asyncio.Future[None] = loop.create_future()
        _allow_many_files()
        self._folder = tempfile.mkdtemp(prefix="code-judge-")
        # A user of a slot passes through it.
        os.chmod(self._folder, 0o711)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._control.setblocking(False)
            # The environment is ours, and the zygote removes its own folder from the search path.
            options = [python or sys.executable, *OPTIONS, str(ZYGOTE)]
            self._process = subprocess.Popen(
                [*options, str(theirs.fileno()), self._folder, flavour],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**ENVIRONMENT, **{name: os.environ[name] for name in _FOR_TESTS if name in os.environ}},
                cwd="/",
                start_new_session=True,
            )
        loop.add_reader(self._control, self._on_report)
        self._heard = False
        self._beating = background(self._beat())

    async def ready(self) -> None:
        """Raises SandboxLost if the zygote does not start."""
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), START_SECONDS)
        except TimeoutError:
            self.close(f"the sandbox's zygote did not start in {START_SECONDS} s")
            raise SandboxLost(f"the sandbox's zygote did not start in {START_SECONDS} s") from None

    def begin(self, number: int, on_idle: Callable[[bool], None], seconds: float) -> "asyncio.Future[dict[str, Any]]":
        """The report of the program that `send` is going to start under this number, within `seconds`."""
        loop = asyncio.get_running_loop()
        running = self._running[number] = _Running(loop.create_future(), on_idle, loop.time() + seconds)
        return running.ended

    def forget(self, number: int) -> None:
        self._running.pop(number, None)

    async def send(self, command: dict[str, Any], fds: list[int]) -> None:
        """Raises SandboxLost."""
        data = [json.dumps(command).encode()]
        while self.alive:
            try:
                socket.send_fds(self._control, data, fds)
                return
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except OSError:
                self.close()
        raise SandboxLost("the sandbox's zygote is gone")

    def kill(self, number: int, why: str) -> None:
        if not self.alive or number not in self._running:
            return
        try:
            self._control.send(json.dumps({"kill": number, "why": why}).encode())
        except BlockingIOError:
            asyncio.get_running_loop().call_later(0.001, self.kill, number, why)
        except OSError:
            self.close()

    def close(self, cause: str = "the sandbox's zygote died") -> None:
        """End the zygote, if it has not ended by itself, and with it every program. `cleaned` tells when it is done."""
        if not self.alive:
            return
        self.alive = False
        self._beating.cancel()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._control)
        # Without its socket it kills what it started and ends by itself.
        self._control.close()
        lost = SandboxLost(cause)
        waiting: list[asyncio.Future[Any]] = [self._ready, *(running.ended for running in self._running.values())]
        for future in waiting:
            if not future.done():
                future.set_exception(lost)
                # Nobody may be waiting for it: asyncio need not complain of that.
                future.exception()
        ending = loop.run_in_executor(None, _end, self._process, self._folder)
        ending.add_done_callback(lambda _: self.cleaned.set_result(None))

    async def _beat(self) -> None:
        """Ask for signs of life, and close the link when there are none, or when a report is long overdue."""
        loop, silent = asyncio.get_running_loop(), 0.0
        await asyncio.wait([self._ready])
        while self.alive:
            with contextlib.suppress(OSError):
                self._control.send(b'{"ping": 0}')
            await asyncio.sleep(BEAT_SECONDS)
            # Counted in beats: while this process is held up itself, it hears nothing.
            silent = 0.0 if self._heard else silent + BEAT_SECONDS
            self._heard = False
            if silent >= SILENCE_SECONDS:
                self.close(f"the sandbox's zygote has not answered for {SILENCE_SECONDS:g} s")
            elif any(running.deadline < loop.time() for running in self._running.values()):
                self.close("the sandbox's zygote has lost a program")

    def _on_report(self) -> None:
        while self.alive:
            try:
                data = self._control.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            report = json.loads(data)
            if "layers" in report:
                self.layers, self.missing = tuple(report["layers"]), report["missing"]
                self._ready.set_result(None)
                continue
            if "pong" in report:
                self._heard = True
                continue
            running = self._running.get(report["id"])
            if running is None or running.ended.done():
                continue
            if "idle" in report:
                running.on_idle(report["idle"])
            else:
                running.ended.set_result(report)


def _end(process: "subprocess.Popen[bytes]", folder: str) -> None:
    """Wait for the keeper's end. Kill what does not end: the zygote first, so that the keeper can clean up."""
    try:
        process.wait(CLEANUP_SECONDS)
    except subprocess.TimeoutExpired:
        _kill_children(process.pid)
        try:
            process.wait(CLEANUP_SECONDS)
        except subprocess.TimeoutExpired:
            # The zygote's death follows from the keeper's.
            process.kill()
            process.wait()
    # The keeper does so, unless it was killed itself.
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.05)


def _kill_children(pid: int) -> None:
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


def _allow_many_files() -> None:
    """A running program costs the service about ten descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
