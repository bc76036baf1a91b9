"""A Redis of our own on a unix socket or port, the API on uvicorn, and workers, each a process that can be killed."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from judge_harness import EXTRA, START_SECONDS, Judge, environment

ROOT = Path(__file__).parents[1]
needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None and "CI" not in os.environ, reason="redis-server is not installed"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Redis:
    """Keeps what it holds over a restart."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        self.socket = folder / "redis.sock"
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.socket}"

    def start(self) -> None:
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self.folder),
        ]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda: b"PONG" in self.cli("ping") or b"NOAUTH" in self.cli("ping"), "Redis answers")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def cli(self, *arguments: str) -> bytes:
        command = ["redis-cli", "-s", str(self.socket), *arguments]
        return subprocess.run(command, capture_output=True, check=False).stdout


def wait_until(condition: Any, what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    pause = 0.02
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(pause)
        # Each look is a request, which takes CPU from what is waited for.
        pause = min(1.1 * pause, 0.1)


@contextlib.contextmanager
def redis_server(folder: Path, *options: str, port: int = 0) -> Iterator[Redis]:
    it = Redis(folder, *options, port=port)
    it.start()
    try:
        yield it
    finally:
        it.kill()


@contextlib.contextmanager
def ended_at_the_end(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextlib.contextmanager
def api(uri: str, *arguments: str, **settings: Any) -> Iterator[Judge]:
    """The documented command, on a free port."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "app.main:app",
        "--port",
        str(port),
        "--log-level",
        "warning",
        *arguments,
    ]
    values = environment(REDIS_URI=uri, **{"RUN_WORKERS": 0, **settings})
    with ended_at_the_end(subprocess.Popen(command, cwd=ROOT, env=values)) as process:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, headers=EXTRA) as http:
            wait_until(lambda: answers(http), "the API answers", START_SECONDS)
            yield Judge(url, process, http)


def answers(http: httpx.Client) -> bool:
    try:
        return bool(http.get("/ping").json() == "pong")
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def workers(uri: str, *, within: tuple[str, ...] = (), **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """The documented command, once it says that it takes work. `within`: a command to run it by."""
    values = environment(REDIS_URI=uri, **{"MAX_WORKERS": 8, "MAX_EXECUTION_TIME": 4, **settings})
    command = [*within, sys.executable, "run_workers.py"]
    with ended_at_the_end(
        subprocess.Popen(command, cwd=ROOT, env=values, stderr=subprocess.PIPE, text=True)
    ) as process:
        assert process.stderr is not None
        assert select.select([process.stderr], [], [], START_SECONDS)[0]
        line = process.stderr.readline()
        assert "slots, isolation" in line, line
        yield process
