r"""Outcome reward for reasoning-gym tasks: the last \boxed{…}, judged by the task family's own verifier.

Verifiers that compare texts or read a number run here; the others, some of which evaluate the answer, run in a process
of their own (`reward.scorer`).
"""

import json
import logging
from functools import cache
from typing import Any

from verl_cleaner.reward.answers import last_boxed
from verl_cleaner.reward.child import Child
from verl_cleaner.reward.own_words import DEFAULT_FORMAT, own_words
from verl_cleaner.reward.scorer import scorer

logger = logging.getLogger(__name__)

COLUMNS = ("extra_info.entry",)
"""What it needs of a data set beside VeRL's own columns; checked before the start."""

_READ_NUMBERS = frozenset({"chain_sum", "products", "fraction_simplification"})
"""Families with a verifier of their own that evaluates nothing."""
_LONGEST_ANSWER = 20_000
"""Characters; the largest grids are shorter."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    tool_format: str = DEFAULT_FORMAT,
    **_: Any,
) -> dict[str, Any]:
    """Return score and acc (1.0 or 0.0) and pred.

    Only the policy's last turn counts. `extra_info["entry"]`: the task as reasoning-gym made it, in JSON.

    Raises:
        ValueError: reasoning-gym has no such family.
        InfrastructureError: the verifiers' process does not start, or ends before it answers.
    """
    pred = (last_boxed(own_words(solution_str, extra_info, tool_format=tool_format).final) or "").strip()
    family = data_source.rsplit("/", 1)[-1]
    entry = json.loads((extra_info or {})["entry"])
    acc = float(0 < len(pred) <= _LONGEST_ANSWER and _score(family, pred, entry) >= 0.99)
    return {"score": acc, "acc": acc, "pred": pred}


def wrong_answer_score(data_source: str, **_: Any) -> float:
    return 0.0


def _score(family: str, pred: str, entry: dict[str, Any]) -> float:
    verifier = _harmless(family)
    try:
        if verifier is None:
            return float(_scorer().ask([family, pred, entry], f"scored {pred[:80]!r} of {family}"))
    except TimeoutError:
        logger.info("reasoning-gym's verifier of %s needs too long for %.80r", family, pred)
        return 0.0
    try:
        return float(verifier(pred, entry))
    except (ArithmeticError, ValueError):
        # A number that it cannot read.
        return 0.0


@cache
def _harmless(family: str) -> Any:
    """The family's verifier where it may run in this process, else None."""
    import reasoning_gym
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS:
        raise ValueError(f"reasoning-gym has no family {family!r}, expected one of {', '.join(sorted(DATASETS))}")
    # The base class compares texts.
    compares = DATASETS[family][0].score_answer is ProceduralDataset.score_answer
    return reasoning_gym.get_score_answer_fn(family) if compares or family in _READ_NUMBERS else None


@cache
def _scorer() -> Child:
    return scorer()
