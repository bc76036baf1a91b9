"""`qwen3_coder` (Qwen3-Coder, Qwen3.5): tags, with every parameter's value as it is.

    <tool_call>
    <function=NAME>
    <parameter=NAME>
    VALUE
    </parameter>
    </function>
    </tool_call>

Nothing is escaped, so a value may hold any tag. A tag in the middle of a line of the value is text, unless the
structure goes on behind it. Where a text can be read in two ways, a value could run in part, and the call is broken.
One ambiguity is left: a value that holds the end of its call and the beginning of a second one is the same text as two
calls.
"""

import json
import re
from typing import Any, ClassVar

from verl_cleaner.formats.base import Call, Schemas, ToolFormat, begins_line, skip_blanks
from verl_cleaner.formats.hermes import CHATML_CLOSERS, CHATML_ENDS, CHATML_OPENERS, CLOSE, OPEN, meant_as_call
from verl_cleaner.formats.parameters import WrongValue, convert

_FUNCTION = re.compile(r"<function=([^<>\n]+)>")
_PARAMETER = re.compile(r"<parameter=([^<>\n]+)>")
_START = re.compile(
    rf"{OPEN}|^[ \t]*(?=<function=[^<>\n]+>\s*(?:<parameter=|</function>))",
    re.MULTILINE,
)
# Closing tags behind which the structure goes on; the second where `</parameter>` was forgotten.
_VALUE_END = re.compile(
    r"</parameter>(?=\s*(?:<parameter=[^<>\n]+>|</function>|</tool_call>))|</function>(?=\s*</tool_call>)"
)
_TAG = re.compile(r"</?tool_call>|</function>|</parameter>|<(?:function|parameter)=[^<>\n]+>")
_CLOSING = re.compile(r"</tool_call>|</function>|</parameter>|<parameter=[^<>\n]+>")

_EXPECTED = f"expected {OPEN}<function=NAME><parameter=NAME>VALUE</parameter></function>{CLOSE}"
_AMBIGUOUS = "a value seems to hold the tag {}, so that its end is not clear; write such a tag in two parts"


class _Broken(Exception):
    """problem: in words for the model. position: how far the call could be read."""

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(problem)
        self.position = position


class Qwen3Coder(ToolFormat):
    name: ClassVar[str] = "qwen3_coder"
    end_tokens = CHATML_ENDS
    openers = CHATML_OPENERS
    closers = CHATML_CLOSERS

    def calls(self, turn: str, schemas: Schemas | None = None) -> list[Call]:
        text = turn[: self.end_of(turn)]
        found: list[Call] = []
        position = 0
        while (start := _next_start(text, position)) is not None:
            try:
                call = _call(text, start, schemas)
                left = _CLOSING.search(text, call.end, _end_of_gap(text, call.end))
                if left is not None:
                    raise _Broken(_AMBIGUOUS.format(left[0]), left.end())
            except _Broken as broken:
                call = Call(start, _broken_end(text, broken.position), problem=str(broken))
                if _VALUE_END.search(text, start):
                    # An earlier value may reach this far.
                    found = [earlier if earlier.problem else _doubtful(earlier) for earlier in found]
            found.append(call)
            position = call.end
        return found


def _next_start(text: str, position: int) -> int | None:
    for start in _START.finditer(text, position):
        if start[0] != OPEN or meant_as_call(text, start.start(), len(text)):
            return start.start() if start[0] == OPEN else start.end()
    return None


def _end_of_gap(text: str, position: int) -> int:
    """Up to where the text behind a call reaches."""
    start = _next_start(text, position)
    return len(text) if start is None else start


def _broken_end(text: str, position: int) -> int:
    """Behind the last closing tag before the next call that begins a line; the whole rest where there is none."""
    stop = position
    while (start := _next_start(text, stop)) is not None and not begins_line(text, start):
        stop = start + 1
    stop = len(text) if start is None else start
    closed = [tag.end() for tag in _CLOSING.finditer(text, position, stop)]
    return closed[-1] if closed else stop


def _doubtful(call: Call) -> Call:
    return Call(call.start, call.end, problem=_AMBIGUOUS.format("</parameter>"))


def _call(text: str, start: int, schemas: Schemas | None) -> Call:
    """The call that begins at `start`. Raises _Broken."""
    tagged = text.startswith(OPEN, start)
    position = skip_blanks(text, start + len(OPEN)) if tagged else start
    function = _FUNCTION.match(text, position)
    if function is None:
        raise _Broken(_EXPECTED, position)
    values, position = _parameters(text, function.end(), (schemas or {}).get(function[1]))
    closed = text.startswith("</function>", position)
    position = skip_blanks(text, position + len("</function>")) if closed else position
    if text.startswith(CLOSE, position):
        position += len(CLOSE)
    elif _FUNCTION.match(text, position):
        raise _Broken(f"expected one function in each {OPEN}", position)
    elif not closed or position < len(text):
        raise _Broken(f"{'</function>' if not closed else CLOSE} is missing", position)
    if not tagged:
        raise _Broken(f"{OPEN} is missing", position)
    return Call(start, position, function[1], json.dumps(values, ensure_ascii=False))


def _parameters(text: str, start: int, types: Any) -> tuple[dict[str, Any], int]:
    """The values of a function's parameters, and where what follows them begins. Raises _Broken."""
    values: dict[str, Any] = {}
    position = skip_blanks(text, start)
    while (parameter := _PARAMETER.match(text, position)) is not None:
        name = parameter[1]
        closed = _VALUE_END.search(text, parameter.end())
        if closed is None:
            raise _Broken(f"</parameter> is missing behind the value of {name}", parameter.end())
        value = text[parameter.end() : closed.start()]
        forgotten = closed[0] != "</parameter>"
        position = closed.start() if forgotten else skip_blanks(text, closed.end())
        if tag := next((tag for tag in _TAG.finditer(value) if forgotten or begins_line(value, tag.start())), None):
            raise _Broken(_AMBIGUOUS.format(tag[0]), position)
        if name in values:
            raise _Broken(f"the parameter {name} is given twice, or a value holds its tag", position)
        if types is not None and name not in types:
            raise _Broken(f"unknown parameter {name}, or a value holds its tag", position)
        try:
            values[name] = convert(value.removeprefix("\n").removesuffix("\n"), (types or {}).get(name))
        except WrongValue as wrong:
            raise _Broken(f"parameter {name} {wrong}", position) from None
    return values, position
