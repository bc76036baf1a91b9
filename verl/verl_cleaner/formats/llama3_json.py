"""`llama3-json` (Llama 3.1 to 3.3): a JSON object with name and parameters, behind `<|python_tag|>` or without it.

    {"name": NAME, "parameters": {...}}; {"name": NAME, "parameters": {...}}<|eom_id|>

Some models write `arguments` for `parameters`, or add `"type": "function"`: both are read. What is behind
`<|python_tag|>` is meant as a call whatever it is. Elsewhere an object is a call only if it has a call's keys; other
objects are examples or answers.
"""

import re
from enum import StrEnum
from typing import Any, ClassVar

from verl_cleaner.formats.base import Call, Schemas, ToolFormat, begins_line, skip_blanks
from verl_cleaner.formats.json_calls import Shape, decode

_TAG = "<|python_tag|>"
_OBJECT = r"""(?:\[\s*)?\{(?=\s*["'])"""
_CANDIDATE = re.compile(rf"(?:<\|python_tag\|>\s*)+|<function=[\w.-]+>(?=\s*\{{)|(?<!\S){_OBJECT}")
_ANOTHER = re.compile(rf"[;,\s]*(?=(?P<object>{_OBJECT}))")
"""Behind a good call."""
_ARGUMENTS = re.compile(r"""["'](?:parameters|arguments)["']\s*:""")
_NAME = re.compile(r"""["'](?:name|function)["']\s*:\s*["']([^"'\n]*)""")
_SHAPE = Shape(("parameters", "arguments"))


class _Place(StrEnum):
    """Where an object stands: behind a tag or a call, at the beginning of a line, or within one."""

    CALLS = "calls"
    LINE = "line"
    SENTENCE = "sentence"


class Llama3Json(ToolFormat):
    name: ClassVar[str] = "llama3-json"
    stops = ("<|eom_id|>",)
    end_tokens = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
    openers = (
        re.compile(r"(?:<\|e[om][tm]_id\|>)?<\|start_header_id\|>(?:ipython|tool)<\|end_header_id\|>\n\n"),
        re.compile(r"(?<=[}\])>])\s*(?:ipython|tool)\n\n"),
    )
    closers = (
        re.compile(r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n"),
        re.compile(r"assistant\n\n"),
    )

    def calls(self, turn: str, schemas: Schemas | None = None) -> list[Call]:
        end = self.end_of(turn)
        found: list[Call] = []
        position = 0
        while (candidate := _CANDIDATE.search(turn, position, end)) is not None:
            start, body = candidate.span()
            another = _ANOTHER.match(turn, position, end) if found and not found[-1].problem else None
            if another:
                start = body = another.end()
            elif not turn.startswith("<", start):
                body = start
            place = _Place.SENTENCE
            if another or body > start:
                place = _Place.CALLS
            elif begins_line(turn, start):
                place = _Place.LINE
            read = _read(turn, start, body, end, schemas or {}, place)
            if isinstance(read, Call):
                found.append(read)
            position = read.end if isinstance(read, Call) else max(read, start + 1)
        return found


def _read(turn: str, start: int, body: int, end: int, schemas: Schemas, place: _Place) -> Call | int:
    """The call at `start`, or where to go on if there is none. body: where its object should begin, behind the tag
    where there is one."""
    decoded = decode(turn, skip_blanks(turn, body), end)
    if turn.startswith("<function=", start):
        stop = end if decoded.problem else decoded.end
        stop += len("</function>") if turn.startswith("</function>", stop) else 0
        return Call(start, stop, problem=f"{_SHAPE.expected}, got {turn[start:body]}{{...}}")
    if not decoded.problem:
        if body == start and not _is_call(decoded.value, schemas, place):
            return decoded.end
        name, arguments, problem = _SHAPE.read(turn[body : decoded.end], decoded.value)
        return Call(start, decoded.end, name, arguments, problem)
    if body == start and not _meant_as_call(turn, start, end, schemas, place):
        return decoded.end
    another = turn.find(_TAG, body, end)
    stop = another if another >= 0 else end
    if turn.startswith(("{", "["), body):
        return Call(start, stop, problem=decoded.problem)
    return Call(start, stop, problem=f"{_SHAPE.expected} behind {_TAG}, got {turn[body:stop].strip()[:40]!r}")


def _is_call(value: Any, schemas: Schemas, place: _Place) -> bool:
    """Of a complete object without tag. Within a sentence its tool must be known, where any is."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    named = isinstance(value, dict) and value.get("name") in schemas
    if not _SHAPE.looks_like_call(value):
        return named and place is not _Place.SENTENCE
    return named or not schemas or place is not _Place.SENTENCE


def _meant_as_call(turn: str, start: int, end: int, schemas: Schemas, place: _Place) -> bool:
    """Of an object that cannot be read: behind a call it has a name; at the beginning of a line it also names a call's
    arguments or a known tool, within a sentence both."""
    name = _NAME.search(turn, start, end)
    signs = [name is not None and name[1] in schemas, _ARGUMENTS.search(turn, start, end) is not None]
    enough = {_Place.CALLS: True, _Place.LINE: any(signs), _Place.SENTENCE: all(signs)}
    return name is not None and enough[place]
