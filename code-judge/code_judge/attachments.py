"""Files that travel with a submission and its result: base64 in JSON, by names below the program's folder."""

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

MOST_FILES, MOST_PATTERNS = 1000, 100
_MOST_DEPTH, _MOST_NAME, _MOST_PART = 16, 1000, 255
"""Parts of a name; its bytes, and those of one part."""


def _decode(value: Any) -> Any:
    """JSON has text; in Python, bytes are the content itself."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected the file's content in base64: {error}") from None


Content = Annotated[
    bytes,
    BeforeValidator(_decode),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


def check_files(names: Iterable[str], own: Iterable[str]) -> None:
    """own: names that the program's own files have. Raises ValueError."""
    found = set(names)
    if len(found) > MOST_FILES:
        raise ValueError(f"{len(found)} files are more than {MOST_FILES}; send an archive and unpack it in the program")
    for name in found:
        _check(name)
        parts = name.split("/")
        for end in range(1, len(parts)):
            if (folder := "/".join(parts[:end])) in found:
                raise ValueError(f"{folder!r} is a file, and a folder of {name!r}; leave one of them out")
        if parts[0] in own:
            raise ValueError(f"{name!r} has the name of the program's own file; choose another one")


def check_patterns(patterns: list[str]) -> None:
    """Raises ValueError."""
    if len(patterns) > MOST_PATTERNS:
        raise ValueError(f"{len(patterns)} names are more than {MOST_PATTERNS}; use one with a *")
    for pattern in patterns:
        _check(pattern)


def _check(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} is not text that UTF-8 can hold; choose another name") from None
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} must be a name below the program's folder, such as data/in.csv")
    if size > _MOST_NAME or len(parts) > _MOST_DEPTH or any(len(part.encode()) > _MOST_PART for part in parts):
        raise ValueError(
            f"{name[:50]!r}… is too long: at most {_MOST_NAME} bytes, {_MOST_DEPTH} parts, {_MOST_PART} bytes a part"
        )
