"""What a turn calls, as its tool format reads it.

`CallReader` takes the parser's place in VeRL's loop. In the formats of `verl_cleaner.formats` it also sees the broken
calls, which are counted and, where they may be repaired, handed out as `MalformedCall` in the place they were written.
In other formats the calls are those of VeRL's parser.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from verl.experimental.agent_loop import tool_parser as verl_parser
from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser

from verl_cleaner.formats import FORMATS
from verl_cleaner.formats.base import Call, Schemas
from verl_cleaner.records.token_text import token_texts
from verl_cleaner.saar.segment import find_boundary
from verl_cleaner.saar.similarity import ToolCall

logger = logging.getLogger(__name__)
# Broken calls are counted; a line for each would flood the workers' logs.
logging.getLogger(verl_parser.__file__).setLevel(logging.CRITICAL)

_LONG = 512
"""Tokens from which reading would hold up the event loop."""


class MalformedCall(FunctionCall):
    """A call that cannot run. `arguments` is its text as written, `reason` what the model is told."""

    reason: str


class CallReader(ToolParser):
    """The calls of one turn after the other.

    repair: hand out broken calls. Otherwise they are left out, and `dropped` says how many of the turn read last were.
    max_calls: calls beyond are left out unanswered, as VeRL does; they are no fault.
    """

    def __init__(self, name: str, tokenizer: Any, *, max_calls: int) -> None:
        super().__init__(tokenizer)
        self.format = FORMATS.get(name)
        self.max_calls = max_calls
        self.repair = False
        self.dropped = 0
        self._schemas: Schemas = {}
        self._verls = ToolParser.get_tool_parser(name, tokenizer)

    @property
    def stop_token_ids(self) -> list[int]:
        """That end a turn beside the tokenizer's end token, and that the rollout engine must be told of."""
        return self._verls.stop_token_ids

    def ending_ids(self) -> set[int]:
        """Every token that ends a turn."""
        stops = self.tokenizer.convert_tokens_to_ids(list(self.format.stops)) if self.format else []
        return {self.tokenizer.eos_token_id, *self.stop_token_ids, *stops}

    async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> tuple[str, list[FunctionCall]]:
        if self.format is None:
            content, calls = await self._verls.extract_tool_calls(responses_ids, tools)
            written = list(calls)
        else:
            self._schemas = _schemas(tools)
            content, written = await _aside(self._read, responses_ids)
        if len(written) > self.max_calls:
            warn_of_calls_left_out(self.max_calls)
            written = written[: self.max_calls]
        good = [call for call in written if not isinstance(call, MalformedCall)]
        self.dropped = 0 if self.repair else len(written) - len(good)
        return content, written if self.repair else good

    def boundary(self, ids: Sequence[int]) -> int | None:
        """Index of the token in which the first call of the turn `ids` begins, good or broken; None where there is no
        call or the format is not ours. Reads the turn with the tools of the last `extract_tool_calls`."""
        if self.format is None:
            return None
        texts = token_texts(self.tokenizer)(ids)
        calls = self._calls("".join(texts))
        return find_boundary(texts, calls[0].start) if calls else None

    def _calls(self, text: str) -> list[Call]:
        assert self.format is not None
        return self.format.calls(text.removesuffix(self.tokenizer.eos_token), self._schemas)

    def _read(self, ids: Sequence[int]) -> tuple[str, list[FunctionCall]]:
        """What is left of the turn without its calls, and the calls."""
        text = "".join(token_texts(self.tokenizer)(ids))
        calls = self._calls(text)
        ends = [0, *(call.end for call in calls)]
        starts = [*(call.start for call in calls), len(text)]
        content = "".join(text[end:start] for end, start in zip(ends, starts, strict=True))
        return content, [_function_call(call, text) for call in calls]


async def _aside(read: Any, ids: Sequence[int]) -> Any:
    return read(ids) if len(ids) < _LONG else await asyncio.to_thread(read, ids)


def _function_call(call: Call, text: str) -> FunctionCall:
    if call.problem:
        return MalformedCall(name="malformed_call", arguments=text[call.start : call.end], reason=call.problem)
    return FunctionCall(name=call.name, arguments=call.arguments)


def _schemas(tools: Any) -> dict[str, dict[str, str]]:
    """tools: VeRL's schemas of a sample's tools."""
    functions = [tool.function for tool in tools or []]
    return {
        function.name: {name: str(schema.type) for name, schema in function.parameters.properties.items()}
        for function in functions
    }


@cache
def warn_of_whole_turns(name: str) -> None:
    """Where rollback is on and the format is not ours; once a process."""
    logger.warning(
        "multi_turn.format=%s: turns cannot be split (known: %s); rollback replaces whole turns and does not see "
        "malformed calls",
        name,
        ", ".join(FORMATS),
    )


@cache
def warn_of_calls_left_out(limit: int) -> None:
    """Once a process."""
    logger.warning(
        "a turn made more calls than actor_rollout_ref.rollout.multi_turn.max_parallel_calls=%d; the others are left "
        "out unanswered, as VeRL does",
        limit,
    )


@ToolParser.register("llama3-json")
class Llama3JsonParser(ToolParser):
    """For VeRL, which has no parser of this format: its good calls."""

    async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> tuple[str, list[FunctionCall]]:
        return await CallReader("llama3-json", self.tokenizer, max_calls=1 << 60).extract_tool_calls(
            responses_ids, tools
        )


def to_tool_calls(calls: list[FunctionCall]) -> list[ToolCall]:
    """As `saar` compares them."""
    return [ToolCall(call.name, _object(call), call.arguments) for call in calls]


def _object(call: FunctionCall) -> dict[str, Any] | None:
    arguments = None if isinstance(call, MalformedCall) else parsed(call.arguments)
    return arguments if isinstance(arguments, dict) else None


def parsed(arguments: str) -> Any:
    """A call's arguments as the tool gets them; None where they are not JSON."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError, TypeError):
        return None
