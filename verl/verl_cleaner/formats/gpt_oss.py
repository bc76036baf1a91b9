"""`gpt-oss` (Harmony): messages with a header; one whose header names a function is a call, with JSON as its content.

    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

The recipient may also stand before the channel, and `<|constrain|>` may be missing or be a plain word. The prompt ends
with `<|start|>assistant`, so that a turn's first message begins behind it. Thoughts (channel `analysis`) are words of
the policy like any other; what is said in them about calls is no call.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from verl_cleaner.formats.base import Call, Schemas, ToolFormat, skip_blanks
from verl_cleaner.formats.json_calls import decode, find_repeated_key, whole_problem

_MESSAGE, _CALL = "<|message|>", "<|call|>"
_END = re.compile(
    r"<\|(?:end|return|call)\|>|(?=<\|start\|>)"
    r"|(?=<\|channel\|>[^<]{0,200}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>)"
)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_NOT_A_TOOL = ("assistant", "user", "all")
_WITHOUT_MESSAGE = re.compile(r"(?:<\|start\|>assistant|<\|channel\|>|\A\s*(?=to=))[^{]{0,200}?\bto=functions\.")
_STRUCTURE = re.compile(r"<\|start\|>\w*|<\|channel\|>\w*|<\|constrain\|>\w*|<\|(?:message|end|return|call)\|>")
_EXPECTED = "expected to=functions.NAME <|constrain|>json<|message|>{...}<|call|>"

# Without special tokens, as VeRL hands a response to a reward function.
_PLAIN_CALL = re.compile(
    r"(?:assistant)?(?:commentary|analysis)? ?\bto=functions\.[\w.-]{1,100}?"
    r"(?:commentary|analysis)? ?(?:json|code)?\s*(?=\{)"
)
_PLAIN_CHANNEL = re.compile(r"(?:\A|assistant)(?:analysis|commentary|final)")


@dataclass(frozen=True, slots=True)
class _Message:
    """header: turn[start:body]; the content begins at `body`. recipient: empty where the header names none."""

    start: int
    body: int
    recipient: str


class GptOss(ToolFormat):
    name: ClassVar[str] = "gpt-oss"
    stops = (_CALL,)
    end_tokens = ("<|return|>", "<|endoftext|>")
    openers = (re.compile(r"(?:<\|start\|>)?functions\.[\w.-]{1,100} to=assistant"),)
    closers = (re.compile(r"<\|start\|>assistant"), re.compile(r"assistant(?=analysis|commentary|final)"))

    def calls(self, turn: str, schemas: Schemas | None = None) -> list[Call]:
        return [part for part in _parts(turn, self.end_of(turn)) if isinstance(part, Call)]

    def words(self, turn: str) -> str:
        """The contents of its messages, a line apart."""
        end = self.end_of(turn)
        if "<|" not in turn[:end]:
            return _plain_words(turn[:end])
        parts = (turn[slice(*part)] for part in _parts(turn, end) if not isinstance(part, Call))
        return "\n".join(text for part in parts if (text := _STRUCTURE.sub("", part)).strip())


def _parts(turn: str, end: int) -> Iterator[Call | tuple[int, int]]:
    """The turn's calls and, as [start, end), everything else; headers of messages that are no calls are left out."""
    position = 0
    while (message := _next_message(turn, position, end)) is not None:
        yield from _gap(turn, position, message.start)
        if message.recipient:
            call = _call(turn, message, end)
            yield call
            position = call.end
        else:
            stop = _end_of_content(turn, message.body, end)
            yield message.body, stop.start()
            position = stop.end()
    yield from _gap(turn, position, end)


def _next_message(turn: str, position: int, end: int) -> _Message | None:
    mark = turn.find(_MESSAGE, position, end)
    if mark < 0:
        return None
    start = turn.rfind("<|start|>", position, mark)
    if start < 0:
        # Behind the prompt's <|start|>assistant the recipient may precede the channel.
        first = skip_blanks(turn, position)
        channel = turn.rfind("<|channel|>", position, mark)
        start = first if _RECIPIENT.match(turn, first) else channel if channel >= 0 else mark
    recipient = _RECIPIENT.search(turn, start, mark)
    name = recipient[1] if recipient and recipient[1] not in _NOT_A_TOOL else ""
    return _Message(start, mark + len(_MESSAGE), name)


def _end_of_content(turn: str, start: int, end: int) -> re.Match[str]:
    found = _END.search(turn, start, end) or re.compile(r"\Z").search(turn, end, end)
    assert found is not None
    return found


def _gap(turn: str, start: int, stop: int) -> Iterator[Call | tuple[int, int]]:
    """Text that belongs to no message: a call whose header has no `<|message|>`, or words."""
    found = _WITHOUT_MESSAGE.search(turn, start, stop)
    if found is None:
        yield start, stop
        return
    yield start, found.start()
    yield Call(found.start(), stop, problem=f"{_MESSAGE} is missing; {_EXPECTED}")


def _call(turn: str, message: _Message, end: int) -> Call:
    namespace, _, name = message.recipient.partition("functions.")
    body = skip_blanks(turn, message.body)
    decoded = decode(turn, body, end)
    after = skip_blanks(turn, decoded.end)
    if decoded.problem or not turn.startswith((_CALL, "<|end|>", "<|return|>", "<|start|>"), after):
        closed = turn.find(_CALL, decoded.end, end)
        stop = closed if closed >= 0 else _end_of_content(turn, decoded.end, end).start()
    else:
        stop = after
    problem = ""
    if namespace or not name:
        problem = f"{_EXPECTED}, got to={message.recipient[:60]}"
    written = turn[body:stop].strip()
    if not problem and not written.startswith("{"):
        problem = f"the arguments must be a JSON object, got {written[:40]!r}; {_EXPECTED}"
    problem = problem or whole_problem(written)
    if not problem and (twice := find_repeated_key(turn[body : decoded.end])) is not None:
        problem = f"the key {json.dumps(twice, ensure_ascii=False)} is given twice"
    if not problem and not turn.startswith(_CALL, stop):
        problem = f"{_CALL} is missing"
    stop += len(_CALL) if turn.startswith(_CALL, stop) else 0
    if problem:
        return Call(message.start, stop, problem=problem)
    return Call(message.start, stop, name, turn[body : decoded.end])


def _plain_words(text: str) -> str:
    parts, position = [], 0
    while (call := _PLAIN_CALL.search(text, position)) is not None:
        parts.append(text[position : call.start()])
        decoded = decode(text, call.end(), len(text))
        position = len(text) if decoded.problem else decoded.end
    return _PLAIN_CHANNEL.sub("\n", "".join([*parts, text[position:]]))
