"""A process of its own for what a model's text may bring down: it answers a line of JSON for a line of JSON.

A text can keep a library busy for ever, and a limit of time by signal works in the main thread of a process only, which
reward workers are not. Here the process is killed when it takes too long, and the next question starts another.
"""

import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from verl_cleaner.saar.outcome import InfrastructureError

_START_SECONDS = 60.0
"""For the process to import its libraries, on a busy machine."""
_LONGEST_SECONDS = 120
_MEMORY = 4 << 30
_READY = "ready"
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""What the process sees of ours: no keys, no addresses."""


class Child:
    """One process, one question at a time; questions of several threads wait for each other.

    module: what runs in the process; it calls `serve`. package: what it needs, for messages.
    """

    def __init__(self, module: str, package: str, seconds: float) -> None:
        self.module, self.package, self.seconds = module, package, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, question: Any, about: str) -> Any:
        """The answer. about: what the question is about, for messages.

        Raises:
            TimeoutError: it needs more than `seconds`.
            InfrastructureError: the process does not start, or ends before it answers.
        """
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                reply = _read(process, self.seconds)
            except TimeoutError:
                self._kill()
                raise
            except BrokenPipeError:
                reply = ""
            if not reply:
                self._kill()
                raise InfrastructureError(f"{self.package}'s process ended while it {about}")
            return json.loads(reply)

    def close(self) -> None:
        with self._lock:
            self._kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        command = [sys.executable, "-m", self.module]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
        )
        try:
            ready = _read(self._process, _START_SECONDS) == _READY
        except TimeoutError:
            ready = False
        if not ready:
            self._kill()
            raise InfrastructureError(
                f"{self.package} did not start within {_START_SECONDS:g} s; is the package {self.package} installed?"
            )
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:
                pass


def _read(process: "subprocess.Popen[bytes]", seconds: float) -> str:
    """A line without its end, empty where the process has ended. Raises TimeoutError."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise TimeoutError
    return process.stdout.readline().decode().rstrip("\n")


def serve(prepare: Callable[[], Callable[..., Any]]) -> None:
    """In the process: answer until stdin ends. prepare: imports and warms up, returns what answers a question."""
    # What the libraries print must not look like an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    answer = prepare()
    # Nothing is written to files, and no process is started (the latter does not bind root).
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    answers.write(_READY.encode() + b"\n")
    for line in sys.stdin.buffer:
        # Ends the process where nobody is left who would kill it.
        signal.alarm(_LONGEST_SECONDS)
        answers.write(json.dumps(answer(*json.loads(line))).encode() + b"\n")
        signal.alarm(0)
