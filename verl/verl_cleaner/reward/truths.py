"""Ground truths of short answers, in the forms in which data sets store them."""

from collections.abc import Sequence
from typing import Any

from verl_cleaner import stored


def accepted(ground_truth: Any) -> tuple[str, ...]:
    """The answers that are right, at least one.

    Some data sets store a list with one answer, or with several that are equally right, as a list or as its text:
    `["42"]`. Only a list of texts is one of these: `[1, 2]` as a text is an answer itself.
    """
    value = _texts(ground_truth) or ground_truth if isinstance(ground_truth, str) else stored.sequence(ground_truth)
    if isinstance(value, (list, tuple)) and value:
        return tuple(map(str, value))
    return (str(value),)


def _texts(text: str) -> Sequence[str] | None:
    """The texts of a list of texts in JSON or Python."""
    if not text.strip().startswith(("[", "(")) or not any(quote in text for quote in "\"'"):
        return None
    found = stored.sequence(text)
    if isinstance(found, list) and found and all(isinstance(part, str) for part in found):
        return found
    return None
