"""The tokens of a turn: where its first call begins, what it calls, and how another version takes its place."""

from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData
from verl.experimental.agent_loop.tool_parser import FunctionCall

from verl_cleaner.rollout.snapshot import Snapshot
from verl_cleaner.rollout.tool_calls import ToolCallsMixin
from verl_cleaner.rollout.tool_parser import CallReader
from verl_cleaner.saar.segment import Turn


class TurnTokensMixin(ToolCallsMixin):
    tool_parser: CallReader

    def _split_tool_call_segment(self, ids: list[int], response_logprobs: list[float]) -> Turn:
        """The turn `ids`, with which the response ends."""
        logprobs = tuple(response_logprobs[len(response_logprobs) - len(ids) :]) if response_logprobs else None
        return Turn(tuple(ids), logprobs, self._find_tool_call_token_boundary(ids))

    def _find_tool_call_token_boundary(self, ids: list[int]) -> int | None:
        """Index of the first token of the first call; None where there is none, or the format is unknown."""
        return self.tool_parser.boundary(ids)

    async def _read_turn(self, turn: Turn, agent_data: AgentData) -> tuple[str, list[FunctionCall]]:
        """The turn's text before its calls, and the calls, as VeRL reads a generated one."""
        tools = [tool.tool_schema for tool in self._active_tools(agent_data).values()]
        return await self.tool_parser.extract_tool_calls(list(turn.ids), tools)

    async def _overwrite_last_assistant_turn(
        self, agent_data: AgentData, before: Snapshot, turn: Turn, content: str, calls: list[FunctionCall]
    ) -> None:
        """Go back to before the failed turn and append `turn` in its place, as VeRL appends a generated one."""
        before.restore(agent_data)
        merged, agent_data.response_mask, logprobs = await self.ct_merge_assistant_token(
            agent_data.prompt_ids,
            list(turn.ids),
            agent_data.response_mask,
            None if turn.logprobs is None else agent_data.response_logprobs,
            assistant_logprobs=None if turn.logprobs is None else list(turn.logprobs),
        )
        agent_data.prompt_ids = merged.token_ids
        if logprobs is not None:
            agent_data.response_logprobs = logprobs
        agent_data.response_ids = list(turn.ids)
        agent_data.assistant_turns += 1
        agent_data.tool_calls = calls
        agent_data.messages.append(self._build_assistant_message(content, agent_data))
        assert not agent_data.response_logprobs or len(agent_data.response_logprobs) == len(agent_data.response_mask)

    def _void_tokens(self, agent_data: AgentData, start: int, count: int) -> None:
        """Take `count` tokens of the response, from `start` on, out of training. They stay in the context."""
        mask, logprobs = agent_data.response_mask, agent_data.response_logprobs
        agent_data.response_mask = _overwritten(mask, start, [0] * count)
        agent_data.response_logprobs = _overwritten(logprobs, start, [0.0] * count) if logprobs else []

    def _stop_ids(self) -> set[int]:
        """Tokens that end a turn."""
        return self.tool_parser.ending_ids()


def _overwritten(values: list[Any], start: int, new: list[Any]) -> list[Any]:
    return [*values[:start], *new, *values[start + len(new) :]]
