"""How close a retry's tool calls are to the failed ones: the Ratcliff/Obershelp ratio of what the tool would see."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A parsed call. `arguments` is None where the call is malformed; `text` is the call as written."""

    name: str
    arguments: Mapping[str, Any] | None
    text: str


def arguments_text(calls: Sequence[ToolCall]) -> str:
    """The arguments as the tool sees them, keys in a fixed order.

    Of a malformed call, the strings that can be read in it: a missing brace does not make the code another one. Where
    there are none, the call as written.
    """
    return "\n".join(_text(call) for call in calls)


def similarity(old: str, new: str) -> float:
    """In [0, 1]; 1 = equal."""
    return SequenceMatcher(None, old, new).ratio()


_JSON_STRING = re.compile(r'"(\w+)"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)


def _text(call: ToolCall) -> str:
    if call.arguments is None:
        found = {key: value for key, value in _JSON_STRING.findall(call.text) if key != "name"}
        return "\n".join(_unescape(found[key]) for key in sorted(found)) or call.text
    values = (call.arguments[key] for key in sorted(call.arguments))
    return "\n".join(v if isinstance(v, str) else json.dumps(v, sort_keys=True, ensure_ascii=False) for v in values)


def _unescape(value: str) -> str:
    try:
        return str(json.loads(f'"{value}"', strict=False))
    except ValueError:
        return value
