"""math-verify in a process of its own: `await MathVerifier().verify(answer, ground_truth)`.

An answer can keep computer algebra busy for ever (`9^{9^{9^9}}`); see `reward.child`. As a script the module is that
process.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    from math_verify import grader, parse, verify

    equal_numbers = grader.sympy_numeric_eq
    # It rounds to six decimals, and 1.6e-19 to 0. The grader looks the function up by its name.
    grader.sympy_numeric_eq = lambda a, b, *precision: equal_numbers(a, b, *precision) and _close(a, b)

    def equal(answer: str, ground_truth: str) -> bool:
        gold, given = (parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (ground_truth, answer))
        return bool(verify(gold, given, timeout_seconds=None))

    equal("1", "1")
    return equal


_EXACT, _ROUNDED = 1e-12, 1e-4
"""Largest relative difference between equal numbers: of two exact ones, and where one is a decimal."""


def _close(a: Any, b: Any) -> bool:
    """Whether two expressions of SymPy differ little in relation to their size; matrices are compared by the grader."""
    from math_verify.grader import get_pct_val
    from sympy import Expr, Float

    if not isinstance(a, Expr) or not isinstance(b, Expr) or get_pct_val(a, a) == get_pct_val(b, b):
        return True
    tolerance = _ROUNDED if a.has(Float) or b.has(Float) else _EXACT
    left, right = _coefficients(a), _coefficients(b)
    size = max(map(abs, (*left.values(), *right.values())), default=0.0)
    return all(_agree(left.get(term, 0), right.get(term, 0), size, tolerance) for term in left | right)


def _agree(a: complex, b: complex, size: float, tolerance: float) -> bool:
    """Of one term's coefficients. Where one expression lacks the term, the other's may be an error of rounding."""
    return abs(a - b) <= tolerance * (max(abs(a), abs(b)) if a and b else size)


def _coefficients(expression: Any) -> dict[Any, complex]:
    """By term; a number is the coefficient of 1."""
    terms = expression.doit().expand().evalf().as_coefficients_dict()
    return {term: complex(coefficient) for term, coefficient in terms.items()}


if __name__ == "__main__":
    serve(_prepare)
