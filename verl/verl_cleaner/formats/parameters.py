"""Values of tagged parameters: texts, converted to the type that the tool's schema gives, as VeRL's parser does.

Two of VeRL's conversions would pass on something else than was written and are problems here: a boolean that is neither
true nor false (VeRL: false), and a number that is none (VeRL: the text).
"""

import ast
import json
from typing import Any

_TEXT = ("string", "str", "text", "varchar", "char", "enum")
_INTEGER = ("int", "uint", "long", "short", "unsigned")
_NUMBER = ("num", "float")
_BOOLEAN = ("boolean", "bool", "binary")


class WrongValue(ValueError):
    """The message says what was expected and what was given."""


def convert(text: str, kind: str | None) -> Any:
    """kind: the JSON type; None where the parameter or the tool is not known. Raises WrongValue."""
    if text.lower() == "null":
        return None
    kind = (kind or "string").strip().lower()
    if kind in _TEXT:
        return text
    try:
        if kind.startswith(_INTEGER):
            return int(text)
        if kind.startswith(_NUMBER):
            number = float(text)
            return int(number) if number == int(number) else number
    except (ValueError, OverflowError):
        raise WrongValue(f"must be a number of type {kind}, got {text[:40]!r}") from None
    if kind in _BOOLEAN:
        if text.lower() not in ("true", "false"):
            raise WrongValue(f"must be true or false, got {text[:40]!r}")
        return text.lower() == "true"
    return _structure(text, kind)


def _structure(text: str, kind: str) -> Any:
    """A list or an object, in JSON or as Python writes it; the text itself where it is neither."""
    if kind == "object" or kind.startswith("dict"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
    return value
