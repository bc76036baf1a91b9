"""A trajectory as a conversation: reasoning, tool calls, tool responses.

If our dump has the tokens, the mask tells what the policy wrote. VeRL's dump has text without special tokens; its turns
are guessed from the words of the chat template that are left, such as "assistant". A response can imitate these words.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from verl_cleaner.formats import FORMATS
from verl_cleaner.formats.base import Call
from verl_cleaner.saar.similarity import ToolCall, arguments_text


class Kind(StrEnum):
    SYSTEM = "system"
    USER = "user"
    THINKING = "thinking"
    TEXT = "text"
    CALL = "call"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class Block:
    """turn: number of the assistant turn, from 1; None before the first. code: what a call runs, if it can be read."""

    kind: Kind
    text: str
    turn: int | None = None
    tool: str = ""
    code: str = ""


def of_prompt(text: str) -> list[Block]:
    """text: with or without special tokens."""
    blocks = []
    parts = _ROLE.split(_SPECIAL_ROLE.sub(r"\n\1\n", "\n" + text))
    if _plain(parts[0]):
        blocks.append(Block(Kind.USER, _plain(parts[0])))
    for role, content in zip(parts[1::2], parts[2::2], strict=True):
        if _plain(content):
            blocks.append(Block(Kind.SYSTEM if role in ("system", "developer") else Kind.USER, _plain(content)))
    return blocks


def of_text(response: str) -> list[Block]:
    """The blocks of a response in VeRL's dump."""
    blocks: list[Block] = []
    end, turn = 0, 1
    for start, stop in _contexts(response):
        blocks += of_assistant(response[end:start], turn)
        blocks += responses(response[start:stop], turn)
        end, turn = stop, turn + 1
    return blocks + of_assistant(response[end:], turn)


def of_tokens(tokens: Sequence[str], mask: Sequence[int]) -> list[Block]:
    """The blocks of a response in our dump. tokens: their texts. mask: 1 where the policy sampled the token."""
    blocks: list[Block] = []
    turn = 0
    for sampled, run in groupby(zip(mask, tokens, strict=True), key=lambda pair: pair[0]):
        text = "".join(piece for _, piece in run)
        if sampled:
            turn += 1
            blocks += of_assistant(text, turn)
        else:
            blocks += responses(text, turn)
    return blocks


_ROLE = re.compile(r"\n(system|developer|user|assistant|tool)\n")
_SPECIAL_ROLE = re.compile(r"<\|(?:im_start|start_header_id|start)\|>(\w+)(?:<\|(?:end_header_id|message)\|>)?\n?")
_SPECIAL = re.compile(r"<\|[\w ]{1,40}\|>")
_CONTEXTS = (
    (re.compile(r"\n?(?:user|tool)\n\s*<tool_response>"), re.compile(r"</tool_response>\s*assistant\n")),
    (re.compile(r"\n(?:tool|ipython)\n"), re.compile(r"\nassistant\n")),
)
"""(begin, end) of a tool's response with the words of the template around it. The first pair that matches is used."""
_CONTEXT_START = re.compile("|".join(opener.pattern for opener, _ in _CONTEXTS))
_RESPONSE = re.compile(r"<tool_response>\n?")
_THINKING = re.compile(
    r"<think>(.*?)(?:</think>|\Z)|<\|channel\|>analysis<\|message\|>(.*?)(?:<\|end\|>|\Z)", re.DOTALL
)
_CHANNEL = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>[^<]*<\|message\|>")
_PARAMETER = re.compile(r"<parameter=[^<>\n]+>\n?")


def _contexts(text: str) -> Iterator[tuple[int, int]]:
    """[start, end) of each tool response. Takes linear time: a pair without a further end is not tried again."""
    left = list(_CONTEXTS)
    at = 0
    while left and (found := _CONTEXT_START.search(text, at)):
        start = found.start()
        at = start + 1
        for opener, closer in list(left):
            if not (opened := opener.match(text, start)):
                continue
            if closed := closer.search(text, opened.end()):
                at = closed.end()
                yield start, at
                break
            left.remove((opener, closer))


def _between(text: str, opener: re.Pattern[str], closer: str) -> list[str]:
    """The texts between each opener and the next closer, without a final line break. Takes linear time."""
    found = []
    at, last = 0, text.rfind(closer)
    while (opened := opener.search(text, at)) and opened.end() <= last:
        end = text.index(closer, opened.end())
        found.append(text[opened.end() : end].removesuffix("\n"))
        at = end + len(closer)
    return found


def _plain(text: str) -> str:
    return _SPECIAL.sub("", text).strip("\n")


def of_assistant(text: str, turn: int) -> list[Block]:
    """The blocks of one turn of the policy: thinking, text, calls. text: with or without special tokens."""
    blocks: list[Block] = []
    end = 0
    for call in _calls(text):
        blocks += _prose(text[end : call.start], turn)
        written = text[call.start : call.end]
        name, code = read_call(written)
        blocks.append(Block(Kind.CALL, written, turn, name, code))
        end = call.end
    return [*blocks, *_prose(text[end:], turn)]


def _calls(text: str) -> list[Call]:
    """The calls that the first format with any result finds."""
    tagged = "qwen3_coder" if "<function=" in text else "hermes"
    for name in (tagged, "gpt-oss", *(["llama3-json"] if '"parameters"' in text else [])):
        if found := FORMATS[name].calls(text):
            return found
    return []


def _prose(text: str, turn: int) -> Iterator[Block]:
    end = 0
    for match in _THINKING.finditer(text):
        yield from _text(text[end : match.start()], turn)
        thought = _plain(match[1] or match[2] or "")
        if thought.strip():
            yield Block(Kind.THINKING, thought, turn)
        end = match.end()
    yield from _text(text[end:], turn)


def _text(text: str, turn: int) -> Iterator[Block]:
    text = _plain(_CHANNEL.sub("", text))
    if text.strip():
        yield Block(Kind.TEXT, text, turn)


def responses(text: str, turn: int) -> list[Block]:
    """The tool responses to one turn. text: as the chat template wraps them."""
    found = _between(text, _RESPONSE, "</tool_response>")
    if not found:
        parts = _ROLE.split(_SPECIAL_ROLE.sub(r"\n\1\n", "\n" + text))
        found = [content for content in map(_plain, [parts[0], *parts[2::2]]) if content.strip()]
    return [Block(Kind.RESPONSE, _SPECIAL.sub("", content), turn) for content in found]


def read_call(piece: str) -> tuple[str, str]:
    """(name, code) of a call. The code of a broken call is what SAAR compares."""
    if found := _between(piece, _PARAMETER, "</parameter>"):
        function = re.search(r"<function=([^<>\n]+)>", piece)
        return function[1] if function else "", "\n".join(found)
    body = piece[piece.find("{") : piece.rfind("}") + 1]
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    arguments = value.get("arguments", value.get("parameters")) if isinstance(value, dict) else None
    name = str(value.get("name", "")) if isinstance(value, dict) else ""
    if header := re.search(r"to=functions\.([\w-]+)", piece[: piece.find("{")]):
        name, arguments = header[1], value
    if not isinstance(arguments, dict):
        code = arguments_text([ToolCall("", None, piece)])
        return "", "" if code == piece else code
    return name, arguments_text([ToolCall("", arguments, piece)])
