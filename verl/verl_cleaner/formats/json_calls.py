"""Calls written as a JSON object: where the object ends, and what is wrong with it in words for the model."""

import json
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Decoded:
    """The value in text[start:end]. problem: why there is none; then `end` is how far the text was read."""

    value: Any
    end: int
    problem: str = ""


def decode(text: str, start: int, end: int) -> Decoded:
    """The JSON value that begins at `start`; what follows it is left alone."""
    body = text[start:end]
    try:
        value, length = _DECODER.raw_decode(body)
    except json.JSONDecodeError as error:
        return Decoded(None, start + error.pos, f"not valid JSON: {error}{_hint(body, error)}")
    except RecursionError:
        return Decoded(None, end, "not valid JSON: it is nested too deeply")
    except ValueError as error:  # an integer of more digits than Python reads
        return Decoded(None, start, f"not valid JSON: {error}")
    return Decoded(value, start + length)


def _hint(body: str, error: json.JSONDecodeError) -> str:
    if error.msg.startswith("Invalid control character"):
        return r"; write a line break in a string as \n"
    if error.msg.startswith("Invalid \\escape"):
        return r"; write a backslash in a string as \\"
    return ""


def whole_problem(text: str) -> str:
    """Why the text is not one JSON value; empty if it is."""
    decoded = decode(text, 0, len(text))
    if not decoded.problem and text[decoded.end :].strip():
        extra = text[decoded.end :].strip()
        return f"not valid JSON: unexpected {extra[:20]!r} after the object"
    return decoded.problem


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a format's object. arguments: the keys under which the arguments may be, the documented one first."""

    arguments: tuple[str, ...]

    @property
    def expected(self) -> str:
        return f'expected {{"name": ..., "{self.arguments[0]}": {{...}}}}'

    @staticmethod
    def looks_like_call(value: Any) -> bool:
        return isinstance(value, dict) and "name" in value and any(key in value for key in ("arguments", "parameters"))

    def read(self, text: str, value: Any) -> tuple[str, str, str]:
        """(name, arguments as JSON text, problem) of the object `value`, written as `text`."""
        problem = self._problem(text, value)
        if problem:
            return "", "", problem
        key = next(key for key in self.arguments if key in value)
        return value["name"], json.dumps(value[key], ensure_ascii=False), ""

    def _problem(self, text: str, value: Any) -> str:
        if not isinstance(value, dict):
            return f"{self.expected}, got {_kind(value)}"
        given = [key for key in self.arguments if key in value]
        if not isinstance(value.get("name"), str) or not given:
            keys = ", ".join(json.dumps(key, ensure_ascii=False) for key in list(value)[:6])
            return f"{self.expected}, got an object with {keys or 'no key'}"
        if len(given) > 1:
            return f"{self.expected}, got both {' and '.join(given)}"
        if not isinstance(value[given[0]], dict):
            return f"{given[0]} must be an object, got {_kind(value[given[0]])}"
        twice = find_repeated_key(text)
        return f"the key {json.dumps(twice, ensure_ascii=False)} is given twice" if twice is not None else ""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def find_repeated_key(text: str) -> str | None:
    """JSON readers keep the last of two values under one key; the policy wrote both."""
    found: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        read = dict(pairs)
        if len(read) < len(pairs):
            keys = [key for key, _ in pairs]
            found.append(next(key for key in keys if keys.count(key) > 1))
        return read

    json.loads(text, object_pairs_hook=check)
    return found[0] if found else None
