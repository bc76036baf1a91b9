"""The answer in the policy's own words (`reward.own_words`), which hold neither tool calls nor what tools printed.

A short answer is the last box of all turns, as in the published training; a program is the last block of the last turn.
"""

import re
import textwrap

_BOX = r"\boxed{"
_PYTHON_BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)```[ \t]*(?:python3?|py)\b[^\n`]*\n(?P<code>.*?)^[ \t]*```[ \t\r]*$",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{…}, as written; None where there is none or it is not closed."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
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


def last_python_block(text: str) -> str | None:
    """The content of the last fenced block marked as Python; None where no such block is closed."""
    blocks = list(_PYTHON_BLOCK.finditer(text))
    if not blocks:
        return None
    code = blocks[-1]["code"]
    # Inside a list item the block is indented with its fence.
    return textwrap.dedent(code) if blocks[-1]["indent"] else code
