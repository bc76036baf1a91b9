"""The answer in the policy's own words (`reward.own_words`), which hold neither tool calls nor what tools printed.

A short answer is the last box of all turns, as in the published training; a program is the last block of the last turn.
"""

import re

from verl_cleaner.reward.fences import last_program

_BOX = re.compile(r"\\boxed\{")
_ANY_BOX = re.compile(r"\\(?:d?boxed|fbox|framebox|bbox)\s*\{")


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{…}, as written; None where there is none or it is not closed."""
    return _last(_BOX, text)


def last_answer(text: str) -> str | None:
    r"""As `last_boxed`, for the lenient rules: `\boxed {…}`, `\fbox{…}` and `\framebox{…}` count, too."""
    return _last(_ANY_BOX, text)


def last_python_block(text: str) -> str | None:
    """The last program in the text's code blocks (see `fences`); None where there is none."""
    return last_program(text)


def _last(box: re.Pattern[str], text: str) -> str | None:
    """What the last of these boxes holds, up to the brace that closes it."""
    start = max((match.end() for match in box.finditer(text)), default=-1)
    if start < 0:
        return None
    depth, position = 1, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            # An escaped brace is a brace that is printed.
            position += 1
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return text[start:position]
        position += 1
    return None
