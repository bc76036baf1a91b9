"""A retry: generated with the error in view, then put in the failed turn's place."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData, AgentState
from verl.experimental.agent_loop.tool_parser import FunctionCall

from verl_cleaner.rollout import rescore
from verl_cleaner.rollout.snapshot import Snapshot
from verl_cleaner.rollout.tool_calls import ToolCallsMixin
from verl_cleaner.rollout.tool_parser import CallReader, parsed, to_tool_calls
from verl_cleaner.rollout.tools.state import set_since
from verl_cleaner.rollout.turn import TurnAttempt
from verl_cleaner.saar.config import RollbackMode, SimilarityOn
from verl_cleaner.saar.gate import derive_seed
from verl_cleaner.saar.overwrite import Strategy, overwrite_turn
from verl_cleaner.saar.record import Retry, RetryResult
from verl_cleaner.saar.segment import Turn
from verl_cleaner.saar.similarity import arguments_text, similarity

_LONG = 2000
"""Characters from which a comparison would hold up the event loop."""


@dataclass(frozen=True, slots=True)
class _Retry:
    """What the policy generated with the error in view.

    cut_off: by its budget; then it calls nothing. noted: extra fields that the rollout engine set meanwhile.
    """

    tokens: Turn
    calls: list[FunctionCall]
    cut_off: bool
    seconds: float
    noted: dict[str, Any]


class RetryMixin(ToolCallsMixin):
    """key: what the seeds of a trajectory's generations are derived from. rescores: the rollout engine scores
    overwritten tokens. Both are set for each trajectory before its first turn."""

    key: tuple[object, ...]
    rescores: bool
    tool_parser: CallReader

    def _overwrites(self) -> bool:
        return self.rollback.config.rollback_mode == RollbackMode.OVERWRITE

    async def _retry(self, agent_data: AgentData, side: Snapshot) -> Retry:
        """Generate a retry in the side context and put it where it belongs. Returns its row of the record."""
        failed = self.turn.attempt
        row = failed.retry_row()
        base = self.turn.before if self._overwrites() else side
        room = self.response_length - len(base.response_mask)
        context_left = self.max_model_len - len(side.prompt_ids)
        budget = self.rollback.policy.budget(response_left=room, context_left=context_left)
        if budget < 1:
            return row
        retry = await self._generate_retry(agent_data, budget)
        row = replace(row, generated=len(retry.tokens), seconds=retry.seconds)
        # A retry that was cut off although an ordinary turn had more room is no answer.
        overlong = retry.cut_off and len(agent_data.response_mask) < self.response_length
        if overlong or (not retry.calls and len(side.response_mask) >= self.response_length):
            return replace(row, discarded=len(retry.tokens))
        if not retry.calls:
            agent_data.user_turns, agent_data.assistant_turns = side.user_turns, side.assistant_turns + 1
            return replace(row, result=RetryResult.NO_CALL)
        row = replace(row, new_call=arguments_text(to_tool_calls(retry.calls)))
        if not self._overwrites():
            return self._append_retry(agent_data, retry, side, row)
        ratio = await self._similarity(failed, retry)
        return await self._replace_turn(agent_data, retry, ratio, replace(row, similarity=round(ratio, 4)))

    async def _generate(
        self, agent_data: AgentData, sampling_params: dict[str, Any], *, ignore_termination: bool = False
    ) -> AgentState:
        """VeRL's handler, with a seed of the turn's own where the rollout engine is ours."""
        if self.rollout_config.name == "cpu":
            retries = self.rollback.policy.retries
            seed = derive_seed("sampling", *self.key, agent_data.assistant_turns, retries)
            sampling_params = {**sampling_params, "seed": seed}
        state = await super()._handle_generating_state(agent_data, sampling_params, ignore_termination)
        self.rollback.record.sampled_tokens += len(agent_data.response_ids)
        return state

    async def _generate_retry(self, agent_data: AgentData, budget: int) -> _Retry:
        """Let VeRL generate the next turn of the side context."""
        start, policy, before = time.perf_counter(), self.rollback.policy, self.turn.before
        # The retry takes the failed turn's place in the turn budget.
        agent_data.user_turns, agent_data.assistant_turns = before.user_turns, before.assistant_turns
        self.tool_parser.repair = True
        policy.begin_retry()
        noted_before = dict(agent_data.extra_fields)
        await self._generate(agent_data, {**self._sampling_params, "max_tokens": budget}, ignore_termination=True)
        ids = agent_data.response_ids
        policy.end_retry(generated=len(ids))
        cut_off = len(ids) >= budget and ids[-1] not in self.tool_parser.ending_ids()
        tokens = self._split_tool_call_segment(ids, agent_data.response_logprobs)
        calls = [] if cut_off else agent_data.tool_calls
        noted = set_since(noted_before, agent_data.extra_fields)
        return _Retry(tokens, calls, cut_off, round(time.perf_counter() - start, 4), noted)

    async def _replace_turn(self, agent_data: AgentData, retry: _Retry, ratio: float, row: Retry) -> Retry:
        """Overwrite the failed turn by what `saar` makes of it and its retry."""
        config, turn, failed = self.rollback.config, self.turn, self.turn.attempt.tokens
        # One token less than there is room: VeRL ends a trajectory that is full before it runs the tools.
        room = self.response_length - turn.start - 1
        threshold = config.rollback_similarity_threshold
        repaired = overwrite_turn(failed, retry.tokens, ratio=ratio, threshold=threshold, room=room)
        if repaired is None:
            return replace(row, discarded=len(retry.tokens))
        tokens, strategy = repaired
        content, calls = await self._read_turn(tokens, agent_data)
        if strategy is Strategy.TOOL_CALL_ONLY and calls != retry.calls:
            # The call reads differently behind the old reasoning.
            tokens, strategy = retry.tokens, Strategy.FULL_TURN
            content, calls = await self._read_turn(tokens, agent_data)
        first = (failed.boundary or 0) if strategy is Strategy.TOOL_CALL_ONLY else 0
        if turn.repaired_from is not None:
            first = min(first, turn.repaired_from)
        if config.rollback_min_logratio is not None and self.rescores:
            gap = await self._gap(tokens, first, agent_data)
            if gap < config.rollback_min_logratio:
                return replace(row, result=RetryResult.IMPLAUSIBLE, gap=gap, discarded=len(retry.tokens))
        await self._overwrite_last_assistant_turn(agent_data, turn.before, tokens, content, calls)
        await self._take_back(agent_data, retry)
        turn.repaired, turn.repaired_from = tokens, first
        discarded = len(failed) + len(retry.tokens) - len(tokens)
        span = (turn.start + first, turn.start + len(tokens))
        return replace(row, result=RetryResult.OVERWRITTEN, strategy=strategy, discarded=discarded, span=span)

    async def _take_back(self, agent_data: AgentData, retry: _Retry) -> None:
        """Restore the tools' state from before the failed version's calls ran."""
        state, done = self.turn.attempt.tool_state, list(self.turn.attempt.finished())
        if state is not None:
            ran = [(result.tool, parsed(result.call.arguments)) for result in done if result.tool is not None]
            await state.restore(agent_data, calls=ran, generated=retry.noted)

    def _append_retry(self, agent_data: AgentData, retry: _Retry, side: Snapshot, row: Retry) -> Retry:
        """For the ablations: the failed turn and its error stay, and the retry follows them."""
        turn, discarded = self.turn, 0
        if self.rollback.config.rollback_mode == RollbackMode.VOID:
            discarded = len(turn.attempt.tokens)
            masked, logprobs = [0] * discarded, [0.0] * discarded
            agent_data.response_mask = _spliced(agent_data.response_mask, turn.start, masked)
            if agent_data.response_logprobs:
                agent_data.response_logprobs = _spliced(agent_data.response_logprobs, turn.start, logprobs)
        agent_data.tool_calls = retry.calls
        size = len(side.response_mask)
        turn.before = replace(
            side,
            response_mask=agent_data.response_mask[:size],
            response_logprobs=agent_data.response_logprobs[:size],
            user_turns=turn.before.user_turns,
            assistant_turns=turn.before.assistant_turns,
        )
        return replace(row, result=RetryResult.VOIDED if discarded else RetryResult.KEPT, discarded=discarded)

    async def _gap(self, turn: Turn, first: int, agent_data: AgentData) -> float:
        """log π(turn from token `first` on | clean) - log π(the same | as sampled)."""
        assert turn.logprobs is not None
        before = self.turn.before
        media = {"image_data": before.image_data, "video_data": agent_data.video_data}
        ids, start = [*before.prompt_ids, *turn.ids], len(before.prompt_ids) + first
        clean = await rescore.score(self.server_manager, ids, start, **media)
        return sum(clean) - sum(turn.logprobs[first:])

    async def _similarity(self, failed: TurnAttempt, retry: _Retry) -> float:
        if self.rollback.config.rollback_similarity_on == SimilarityOn.CALL:
            segments = (t if t.boundary is None else t.tool_call for t in (failed.tokens, retry.tokens))
            old, new = (self.tokenizer.decode(segment.ids) for segment in segments)
        else:
            old, new = failed.arguments, arguments_text(to_tool_calls(retry.calls))
        if len(old) + len(new) < _LONG:
            return similarity(old, new)
        return await asyncio.to_thread(similarity, old, new)

    # ---- the tokens of a turn ----------------------------------------------------------------------------------------

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


def _spliced(values: list[Any], start: int, new: list[Any]) -> list[Any]:
    return [*values[:start], *new, *values[start + len(new) :]]
