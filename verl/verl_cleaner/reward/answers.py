"""The parts of a response that are scored: never what a tool printed or what a call holds.

A short answer is the last box of the whole response, as in the published training; a program is the last block after
the last tool response.
"""

import re
import textwrap

_TOOL_RESPONSE_END = "</tool_response>"
_TOOL_RESPONSE = "<tool_response>"
_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)
_BOX = r"\boxed{"
_PYTHON_BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)```[ \t]*(?:python3?|py)\b[^\n`]*\n(?P<code>.*?)^[ \t]*```[ \t\r]*$",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


def final_part(response: str) -> str:
    """What follows the last tool response, without calls that nothing answered; all of it where no tool answered."""
    return _CALL.sub("", response.rsplit(_TOOL_RESPONSE_END, 1)[-1])


def _own_text(response: str) -> str:
    """Without calls and tool responses. A tool response ends at its last end mark: it may print one itself."""
    first, *rest = response.split(_TOOL_RESPONSE)
    answered = (part.rpartition(_TOOL_RESPONSE_END) for part in rest)
    return "\n".join(_CALL.sub("", part) for part in (first, *(after for _, end, after in answered if end)))


def last_boxed(response: str) -> str | None:
    r"""The content of the response's last \boxed{…}, as written; None where there is none or it is not closed."""
    text = _own_text(response)
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


def last_python_block(response: str) -> str | None:
    """The content of the final part's last fenced block marked as Python; None where no such block is closed."""
    blocks = list(_PYTHON_BLOCK.finditer(final_part(response)))
    if not blocks:
        return None
    code = blocks[-1]["code"]
    # Inside a list item the block is indented with its fence.
    return textwrap.dedent(code) if blocks[-1]["indent"] else code
