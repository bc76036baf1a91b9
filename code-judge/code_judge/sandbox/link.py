"""The service's side of one zygote: starts it, hands it programs, learns how they ended."""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ZYGOTE = Path(__file__).with_name("zygote.py")
CLEANUP_SECONDS = 5
START_SECONDS = 60
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    # Else every fork looks up again what the zygote has not called yet.
    "LD_BIND_NOW": "1",
    # A program has one core; thread pools per core would only eat its address space.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class SandboxLost(Exception):
    """The sandbox failed; nothing is known of the program. Our failure, not the program's."""


class Link:
    """One life of a zygote. `layers`, `missing`: see zygote.py."""

    def __init__(self, flavour: str) -> None:
        self.layers: tuple[str, ...] = ()
        self.missing: dict[str, str] = {}
        self.alive = True
        self._running: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _allow_many_files()
        self._folder = tempfile.mkdtemp(prefix="code-judge-")
        # A user of a slot passes through it.
        os.chmod(self._folder, 0o711)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._control.setblocking(False)
            # Not -I: it would ignore PYTHONHASHSEED. The environment is ours, so -P and -s isolate as well.
            options = [sys.executable, "-P", "-s", "-X", "utf8", str(ZYGOTE)]
            self._process = subprocess.Popen(
                [*options, str(theirs.fileno()), self._folder, flavour],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        asyncio.get_running_loop().add_reader(self._control, self._on_report)

    async def ready(self) -> None:
        """Raises SandboxLost if the zygote does not start."""
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), START_SECONDS)
        except TimeoutError:
            self.close()
            raise SandboxLost(f"the sandbox's zygote did not start in {START_SECONDS} s") from None

    def begin(self, number: int) -> "asyncio.Future[dict[str, Any]]":
        """The report of the program that `send` is going to start under this number."""
        ended = self._running[number] = asyncio.get_running_loop().create_future()
        return ended

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

    def close(self) -> None:
        """End the zygote, if it has not ended by itself, and with it every program."""
        if not self.alive:
            return
        self.alive = False
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        try:
            # Without its socket it kills what it started and ends by itself.
            self._process.wait(CLEANUP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # The keeper does so, unless it was killed itself.
        shutil.rmtree(self._folder, ignore_errors=True)
        lost = SandboxLost("the sandbox's zygote died")
        if not self._ready.done():
            self._ready.set_exception(lost)
            self._ready.exception()
        for ended in self._running.values():
            if not ended.done():
                ended.set_exception(lost)

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
            ended = self._running.get(report["id"])
            if ended is not None and not ended.done():
                ended.set_result(report)


def _allow_many_files() -> None:
    """A running program costs the service about ten descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
