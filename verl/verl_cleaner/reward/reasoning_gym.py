"""Outcome reward for reasoning-gym tasks: the last boxed answer, judged by the task family's own verifier."""

import json
import re
from functools import cache
from typing import Any

COLUMNS = ("extra_info.entry",)
"""What it needs of a data set beside VeRL's own columns; checked before the start."""

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **_: Any
) -> dict[str, Any]:
    """Return score and acc (1.0 or 0.0) and pred.

    Only what follows the last tool response counts. `extra_info["entry"]`: the task as reasoning-gym made it, in JSON.
    """
    answers = _BOXED.findall(solution_str.rsplit("</tool_response>", 1)[-1])
    pred = answers[-1].strip() if answers else ""
    family = data_source.rsplit("/", 1)[-1]
    entry = json.loads((extra_info or {})["entry"])
    acc = float(bool(pred) and _verifier(family)(pred, entry) >= 0.99)
    return {"score": acc, "acc": acc, "pred": pred}


@cache
def _verifier(family: str) -> Any:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(family)
