r"""Outcome reward of chains: the last \boxed{…} is the whole number that the last part results in."""

from typing import Any

from verl_cleaner.reward.answers import last_boxed
from verl_cleaner.reward.own_words import own_words


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **_: Any
) -> dict[str, Any]:
    """Return score and acc (1.0 or 0.0) and pred. Only the policy's last turn counts."""
    pred = (last_boxed(own_words(solution_str, extra_info).final) or "").strip()
    acc = float(pred == ground_truth)
    return {"score": acc, "acc": acc, "pred": pred}


def wrong_answer_score(data_source: str, **_: Any) -> float:
    """What a failed call counts as where it is a member of its group."""
    return 0.0
