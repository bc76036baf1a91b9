"""What a turn calls, including the calls that VeRL's parsers silently drop.

`CallReader` takes the parser's place in VeRL's loop. VeRL's parser decides what runs; the broken calls are counted and,
where they may be repaired, handed out as `MalformedCall` in the place they were written.
"""

import asyncio
import json
import logging
from functools import cache
from typing import Any

from verl.experimental.agent_loop import tool_parser as verl_parser
from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser

from verl_cleaner.rollout.tool_formats import FORMATS, llama3_content, llama3_pieces
from verl_cleaner.saar.similarity import ToolCall

logger = logging.getLogger(__name__)
# Broken calls are counted; a line for each would flood the workers' logs.
logging.getLogger(verl_parser.__file__).setLevel(logging.CRITICAL)

_LONG = 512
"""Tokens from which decoding would hold up the event loop."""


class MalformedCall(FunctionCall):
    """A call that cannot run. `arguments` is its text as written, `reason` what the model is told."""

    reason: str


class CallReader(ToolParser):
    """VeRL's parser `name`, and what it leaves out.

    repair: hand out broken calls. Otherwise the calls are VeRL's, and `dropped` says how many it left out of the turn
    read last. max_calls: calls beyond are broken.
    """

    def __init__(self, name: str, tokenizer: Any, *, max_calls: int) -> None:
        super().__init__(tokenizer)
        self.format = FORMATS.get(name)
        self.max_calls = max_calls
        self.repair = False
        self.dropped = 0
        self._on_ids = ToolParser.get_tool_parser(name, tokenizer)
        self._on_text = ToolParser.get_tool_parser(name, _Decoded(tokenizer))

    @property
    def stop_token_ids(self) -> list[int]:
        return self._on_ids.stop_token_ids

    async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> tuple[str, list[FunctionCall]]:
        if self.format is None:
            content, calls = await self._on_ids.extract_tool_calls(responses_ids, tools)
            written = list(calls)
        else:
            text = await self._decode(responses_ids)
            content, calls = await self._on_text.extract_tool_calls(text, tools)
            written = await self._read(text, calls, tools)
        for index in range(self.max_calls, len(written)):
            reason = f"only {self.max_calls} calls are allowed in one turn"
            written[index] = _malformed(written[index].arguments, reason)
        broken = sum(isinstance(call, MalformedCall) for call in written)
        self.dropped = 0 if self.repair else broken
        return content, written if self.repair and broken else calls

    async def _decode(self, ids: list[int]) -> str:
        if len(ids) < _LONG:
            return self.tokenizer.decode(ids)
        return await asyncio.to_thread(self.tokenizer.decode, ids)

    async def _read(self, text: str, calls: list[FunctionCall], tools: Any) -> list[FunctionCall]:
        """The calls as written, in order: VeRL's, and for each piece it finds no call in, a broken one."""
        assert self.format is not None
        pieces = self.format.pieces(text.removesuffix(self.tokenizer.eos_token))
        if len(pieces) == 1 and len(calls) >= 1:
            return list(calls)
        written: list[FunctionCall] = []
        for piece in pieces:
            _, read = await self._on_text.extract_tool_calls(piece, tools)
            written += read or [_malformed(piece, self.format.problem(piece))]
        return written


@cache
def warn_of_whole_turns(name: str) -> None:
    """Where rollback is on and the format has no line in `FORMATS`; once a process."""
    logger.warning(
        "multi_turn.format=%s: turns cannot be split (known: %s); rollback replaces whole turns and does not see "
        "malformed calls",
        name,
        ", ".join(FORMATS),
    )


class _Decoded:
    """A tokenizer for text that is decoded already."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, text: str, **_: Any) -> str:
        return text


@ToolParser.register("llama3-json")
class Llama3JsonParser(ToolParser):
    """Llama 3's `{"name": ..., "parameters": {...}}`, after `<|python_tag|>` or at the beginning of a word."""

    async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> tuple[str, list[FunctionCall]]:
        text = self.tokenizer.decode(responses_ids)
        calls = [call for piece in llama3_pieces(text) if (call := _llama3_call(piece))]
        return llama3_content(text), calls


def _llama3_call(piece: str) -> FunctionCall | None:
    try:
        call = json.loads(piece)
        arguments = json.dumps(call["parameters"], ensure_ascii=False)
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    name = call.get("name")
    return FunctionCall(name=name, arguments=arguments) if isinstance(name, str) else None


def to_tool_calls(calls: list[FunctionCall]) -> list[ToolCall]:
    """As `saar` compares them."""
    return [ToolCall(call.name, _arguments(call), call.arguments) for call in calls]


def _arguments(call: FunctionCall) -> dict[str, Any] | None:
    if isinstance(call, MalformedCall):
        return None
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def _malformed(body: str, reason: str) -> MalformedCall:
    return MalformedCall(name="malformed_call", arguments=body, reason=reason)
