"""math-verify in a process of its own: `await MathVerifier().verify(answer, ground_truth)`.

An answer can keep computer algebra busy for ever (`9^{9^{9^9}}`); see `reward.child`. As a script the module is that
process.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from verl_cleaner.reward.child import Child, serve

logger = logging.getLogger(__name__)

SECONDS = 5.0
"""For one comparison; what takes longer counts as not equal."""
_LONGEST_ANSWER = 2000
"""Characters. Nothing that long is equal to a short answer, and parsing it takes seconds."""


class MathVerifier:
    """One process, one question at a time."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._child = Child("verl_cleaner.reward.verifier", "math-verify", seconds)
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
        self._child.close()
        self._thread.shutdown()

    def _ask(self, answer: str, ground_truth: str) -> bool:
        try:
            return bool(self._child.ask([answer, ground_truth], f"compared {answer[:80]!r}"))
        except TimeoutError:
            logger.info("math-verify needs more than %g s for %.80r", self._child.seconds, answer)
            return False


def _prepare() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    def equal(answer: str, ground_truth: str) -> bool:
        gold, given = (parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (ground_truth, answer))
        return bool(verify(gold, given, timeout_seconds=None))

    equal("1", "1")
    return equal


if __name__ == "__main__":
    serve(_prepare)
