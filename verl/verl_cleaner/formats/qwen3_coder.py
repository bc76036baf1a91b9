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
from bisect import bisect_left
from typing import Any, ClassVar

from verl_cleaner.formats.base import Call, Schemas, ToolFormat, begins_line, skip_blanks
from verl_cleaner.formats.hermes import (
    CHATML_CLOSERS,
    CHATML_ENDS,
    CHATML_OPENERS,
    CHATML_WEAK_CLOSERS,
    CLOSE,
    OPEN,
    PLACEHOLDER,
    meant_as_call,
)
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

_EXPECTED = f"expected <function=NAME><parameter=NAME>VALUE</parameter></function> in {OPEN}"
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
    weak_closers = CHATML_WEAK_CLOSERS

    def calls(self, turn: str, schemas: Schemas | None = None) -> list[Call]:
        reader = _Reader(turn[: self.end_of(turn)], schemas or {})
        found: list[Call] = []
        doubtful = position = 0
        while (start := reader.next_start(position)) is not None:
            try:
                call = reader.call(start)
            except _Broken as broken:
                call = Call(start, reader.broken_end(start, broken.position), problem=str(broken))
                if reader.value_end(start) is not None:
                    # The value of an earlier call may reach this far.
                    doubtful = len(found)
            found.append(call)
            position = call.end
        return [*map(_doubted, found[:doubtful]), *found[doubtful:]]


def _doubted(call: Call) -> Call:
    return call if call.problem else Call(call.start, call.end, problem=_AMBIGUOUS.format("</parameter>"))


class _Reader:
    """text: a turn without its end tokens."""

    def __init__(self, text: str, schemas: Schemas) -> None:
        self._text = text
        self._schemas = schemas
        self._value_ends = [(found.start(), found.end()) for found in _VALUE_END.finditer(text)]

    def next_start(self, position: int, *, tagged: bool = False) -> int | None:
        """Where the next call begins: at `<tool_call>`, or unless tagged, at a function at the beginning of a line."""
        for start in _START.finditer(self._text, position):
            if start[0] != OPEN:
                if not tagged and not PLACEHOLDER.match(self._text, start.end()):
                    return start.end()
            elif meant_as_call(self._text, start.start(), len(self._text)):
                return start.start()
        return None

    def value_end(self, position: int) -> tuple[int, int] | None:
        """The next tag behind `position` that ends a value."""
        index = bisect_left(self._value_ends, (position, 0))
        return self._value_ends[index] if index < len(self._value_ends) else None

    def broken_end(self, start: int, position: int) -> int:
        """Behind the last closing tag before the next call that begins a line; all of it where there is none.

        position: how far the broken call could be read. A function in its tag is no other call."""
        tagged = self._text.startswith(OPEN, start)
        stop = position
        while (following := self.next_start(stop, tagged=tagged)) is not None and not begins_line(
            self._text, following
        ):
            stop = following + 1
        stop = len(self._text) if following is None else following
        closed = [tag.end() for tag in _CLOSING.finditer(self._text, position, stop)]
        return closed[-1] if closed else stop

    def call(self, start: int) -> Call:
        """The call that begins at `start`. Raises _Broken."""
        text = self._text
        tagged = text.startswith(OPEN, start)
        function = _FUNCTION.match(text, skip_blanks(text, start + len(OPEN)) if tagged else start)
        if function is None:
            raise _Broken(_EXPECTED, start + len(OPEN))
        values, position = self._parameters(function)
        closed = text.startswith("</function>", position)
        position = skip_blanks(text, position + len("</function>")) if closed else position
        if text.startswith(CLOSE, position):
            position += len(CLOSE)
        elif _FUNCTION.match(text, position):
            raise _Broken(f"expected one function in each {OPEN}", position)
        elif not closed or position < len(text):
            raise _Broken(f"{CLOSE if closed else '</function>'} is missing", position)
        if not tagged:
            raise _Broken(f"{OPEN} is missing", position)
        following = self.next_start(position)
        left = _CLOSING.search(text, position, len(text) if following is None else following)
        if left is not None:
            raise _Broken(_AMBIGUOUS.format(left[0]), left.end())
        return Call(start, position, function[1], json.dumps(values, ensure_ascii=False))

    def _parameters(self, function: re.Match[str]) -> tuple[dict[str, Any], int]:
        """The values by name, and where what follows them begins. Raises _Broken."""
        types = self._schemas.get(function[1])
        values: dict[str, Any] = {}
        position = skip_blanks(self._text, function.end())
        while (parameter := _PARAMETER.match(self._text, position)) is not None:
            name = parameter[1]
            value, position = self._value(parameter)
            if name in values:
                raise _Broken(f"the parameter {name} is given twice, or a value holds its tag", position)
            if types is not None and name not in types:
                raise _Broken(f"unknown parameter {name}, or a value holds its tag", position)
            try:
                values[name] = convert(value, (types or {}).get(name))
            except WrongValue as wrong:
                raise _Broken(f"parameter {name} {wrong}", position) from None
        return values, position

    def _value(self, parameter: re.Match[str]) -> tuple[str, int]:
        """The value of a parameter, and where what follows it begins. Raises _Broken."""
        start = parameter.end()
        closed = self.value_end(start)
        if closed is None:
            raise _Broken(f"</parameter> is missing behind the value of {parameter[1]}", start)
        stop, behind = closed
        forgotten = not self._text.startswith("</parameter>", stop)
        for tag in _TAG.finditer(self._text, start, stop):
            if forgotten or tag.start() == start or begins_line(self._text, tag.start()):
                raise _Broken(_AMBIGUOUS.format(tag[0]), stop)
        value = self._text[start:stop].removeprefix("\n").removesuffix("\n")
        return value, stop if forgotten else skip_blanks(self._text, behind)
