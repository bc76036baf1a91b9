"""Values as data sets store them: objects, or their text in JSON or Python, with integers of any length.

Python reads and writes integers of no more than 4,300 digits unless told otherwise, and tests of programs hold longer
ones. The limit is the process's own, so it is lifted for all of it. That is safe here: what a model writes is at most a
few ten thousand digits, which Python converts within milliseconds.
"""

import ast
import json
import sys
from typing import Any


def allow_long_integers() -> None:
    """Idempotent. Called where data is read."""
    sys.set_int_max_str_digits(0)


def value(text: str) -> Any:
    """What a text of JSON, else of a Python literal, stands for.

    Raises:
        ValueError: JSON's, where the text is neither.
    """
    allow_long_integers()
    try:
        return json.loads(text)
    except ValueError as error:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise error from None


def sequence(found: Any) -> Any:
    """The list that is stored as one, as its text or as an array; anything else as it is."""
    if isinstance(found, str):
        try:
            read = value(found)
        except ValueError:
            return found
        return list(read) if isinstance(read, (list, tuple)) else found
    return found.tolist() if hasattr(found, "tolist") else found
