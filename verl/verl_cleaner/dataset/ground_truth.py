"""Ground truths: what an answer is compared with has to be usable before anybody is rewarded by it."""

from verl_cleaner.reward.cases import read_cases
from verl_cleaner.reward.sources import Kind
from verl_cleaner.reward.truths import accepted


def problem(kind: Kind, ground_truth: str) -> str | None:
    """Why `ground_truth` cannot be used, None where it can. Code tests are read as their reward reads them."""
    if not ground_truth.strip():
        return "the ground truth is empty"
    if kind == Kind.CHOICE and not all(
        len(text.strip()) == 1 and text.strip().isalpha() for text in accepted(ground_truth)
    ):
        return f"the ground truth must be one letter, got {ground_truth[:40]!r}"
    if kind == Kind.CODE:
        try:
            read_cases(ground_truth, where="")
        except ValueError as error:
            return str(error).removeprefix(": ")
    return None
