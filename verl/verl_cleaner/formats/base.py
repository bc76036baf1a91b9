"""What a tool format knows: the calls of a turn, what is wrong with a broken one, and which words are the policy's own.

A call runs if it is well-formed and can be read in one way only. What was meant as a call and is not well-formed is
broken: it is counted and repaired, and never run in part. Anything else is prose, tags in it included.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

Schemas = Mapping[str, Mapping[str, str]]
"""Tool name -> parameter -> JSON type; empty where the tools are not known."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, written in turn[start:end].

    name, arguments: of a call that can run; arguments is a JSON object as text.
    problem: why a broken call cannot run, in words for the model; empty for a good one.
    """

    start: int
    end: int
    name: str = ""
    arguments: str = ""
    problem: str = ""


class ToolFormat(ABC):
    """name: as in `multi_turn.format`. stops: tokens beside the tokenizer's end token that end a turn with a call.
    end_tokens: what may follow the last word of a turn, as text.
    openers: where a tool's response begins, in a response's text with or without special tokens. closers: where the
    next assistant turn begins; of several patterns the first that occurs decides. weak_closers: the same, only where a
    tool's response began.
    """

    name: ClassVar[str]
    stops: ClassVar[tuple[str, ...]] = ()
    end_tokens: ClassVar[tuple[str, ...]]
    openers: ClassVar[tuple[re.Pattern[str], ...]]
    closers: ClassVar[tuple[re.Pattern[str], ...]]
    weak_closers: ClassVar[tuple[re.Pattern[str], ...]] = ()

    @abstractmethod
    def calls(self, turn: str, schemas: Schemas | None = None) -> list[Call]:
        """The good and the broken calls of one assistant turn, in order. turn: with special tokens."""

    def words(self, turn: str) -> str:
        """The turn without its calls, good or broken, and without its end tokens."""
        parts, position = [], 0
        for call in self.calls(turn):
            parts.append(turn[position : call.start])
            position = call.end
        return "".join([*parts, turn[position : max(position, self.end_of(turn))]])

    def certain_turns(self, response: str) -> list[str]:
        """What certainly is the policy's in the text of a whole response: the turn before the first tool response and
        the one after the last. A tool may print any tag, so what is between them is nobody's."""
        begun = (found for pattern in self.openers if (found := pattern.search(response)))
        opened = min(begun, key=lambda found: found.start(), default=None)
        patterns = self.closers if opened is None else self.closers + self.weak_closers
        closed = next((ends[-1] for pattern in patterns if (ends := [*pattern.finditer(response)])), None)
        if opened is None:
            return [response if closed is None else response[closed.end() :]]
        turns = [response[: opened.start()]]
        return turns if closed is None or closed.start() < opened.end() else [*turns, response[closed.end() :]]

    def end_of(self, turn: str) -> int:
        """Length of the turn without end tokens and what follows them."""
        while True:
            stripped = turn.rstrip()
            token = next((token for token in self.end_tokens if stripped.endswith(token)), None)
            if token is None:
                return len(turn)
            turn = stripped.removesuffix(token)


_BLANK = re.compile(r"\s*")


def skip_blanks(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    assert found is not None
    return found.end()


def begins_line(text: str, position: int) -> bool:
    """Whether only blanks precede it in its line."""
    while position and text[position - 1] in " \t\r":
        position -= 1
    return position == 0 or text[position - 1] == "\n"
