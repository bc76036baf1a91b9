"""Ground truths of short answers, in the forms in which data sets store them."""

import ast
import json
from collections.abc import Sequence
from typing import Any


def accepted(ground_truth: Any) -> tuple[str, ...]:
    """The answers that are right, at least one.

    Some data sets store a list with one answer, or with several that are equally right, as a list or as its text:
    `["42"]`. Only a list of texts is one of these: `[1, 2]` as a text is an answer itself.
    """
    value = ground_truth.tolist() if hasattr(ground_truth, "tolist") else ground_truth
    if isinstance(value, str):
        value = _texts(value) or value
    if isinstance(value, (list, tuple)) and value:
        return tuple(map(str, value))
    return (str(value),)


def _texts(text: str) -> Sequence[str] | None:
    """The texts of a list of texts in JSON or Python."""
    if not text.strip().startswith(("[", "(")) or not any(quote in text for quote in "\"'"):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, (list, tuple)) and value and all(isinstance(part, str) for part in value):
            return value
    return None
