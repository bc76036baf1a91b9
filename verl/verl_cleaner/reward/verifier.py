"""math-verify in a process of its own: `await MathVerifier().verify(answer, ground_truth)`.

An answer can keep computer algebra busy for ever (`9^{9^{9^9}}`), and math-verify's own time limit is a signal, which
only the main thread of a process may set; reward workers are not that. Here the process is killed when it takes too
long, and the next question starts another. As a script the module is that process: it answers a line of JSON for a line
of JSON.
"""

import asyncio
import json
import logging
import os
import resource
import select
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from verl_cleaner.saar.outcome import InfrastructureError

logger = logging.getLogger(__name__)

SECONDS = 5.0
"""For one comparison; what takes longer counts as not equal."""
_START_SECONDS = 60.0
"""For the process to import math-verify, on a busy machine."""
_LONGEST_ANSWER = 2000
"""Characters. Nothing that long is equal to a short answer, and parsing it takes seconds."""
_MEMORY = 4 << 30
_READY = "ready"


class MathVerifier:
    """One process, one question at a time."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        # One thread: the questions of a process queue up here, not in the event loop's own threads.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="math-verify")

    async def verify(self, answer: str, ground_truth: str) -> bool:
        """Whether math-verify takes the two for equal; False where it needs more than `seconds`.

        Raises:
            InfrastructureError: the process does not start, or ends before it answers.
        """
        if len(answer) > _LONGEST_ANSWER:
            return False
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, answer, ground_truth)

    def close(self) -> None:
        self._thread.submit(self._kill).result()
        self._thread.shutdown()

    def _ask(self, answer: str, ground_truth: str) -> bool:
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([answer, ground_truth]).encode() + b"\n")
            reply = _read(process, self.seconds)
        except TimeoutError:
            logger.info("math-verify needs more than %g s for %.80r", self.seconds, answer)
            self._kill()
            return False
        except BrokenPipeError:
            reply = ""
        if not reply:
            self._kill()
            raise InfrastructureError(f"math-verify's process ended while it compared {answer[:80]!r}")
        return bool(json.loads(reply))

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "verl_cleaner.reward.verifier"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            ready = _read(self._process, _START_SECONDS) == _READY
        except TimeoutError:
            ready = False
        if not ready:
            self._kill()
            raise InfrastructureError(
                f"math-verify did not start within {_START_SECONDS:g} s; is the package math-verify installed?"
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


def main() -> None:
    """Until stdin ends."""
    # What the libraries print must not look like an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    from math_verify import parse, verify

    def equal(answer: str, ground_truth: str) -> bool:
        gold, given = (parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (ground_truth, answer))
        return bool(verify(gold, given, timeout_seconds=None))

    equal("1", "1")
    answers.write(_READY.encode() + b"\n")
    for line in sys.stdin.buffer:
        answers.write(json.dumps(equal(*json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    main()
