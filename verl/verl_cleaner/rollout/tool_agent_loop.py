"""SAAR around VeRL's tool agent loop: the asynchronous shell; every decision is made in `verl_cleaner.saar`.

VeRL's loop alternates GENERATING and PROCESSING_TOOLS. A failed turn is repaired inside PROCESSING_TOOLS:

    before      the state from before the turn                        (kept when the turn is generated)
    failed      the turn, and its tool responses                      VeRL's handler runs the tools and appends them:
    side        before + failed turn + its error                      the side context, an ordinary conversation
    retry       VeRL's handler generates the next turn there
    repaired    back to `before`, append the overwritten turn, run its tools                   (`_handle_rollback`)

Start reading at `_handle_rollback`. With rollback off, VeRL's handlers run unchanged. The trajectory's statistics, for
which VeRL's `AgentData` has no place, are in `RollbackManager.record`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.tool_agent_loop import AgentData, AgentState
from verl.experimental.agent_loop.tool_parser import FunctionCall

from verl_cleaner.config import rollback_config
from verl_cleaner.rollout import rescore
from verl_cleaner.rollout.output import MarkedOutput
from verl_cleaner.rollout.rollback_state import RollbackManager, Snapshot
from verl_cleaner.rollout.tool_parser import CallReader, MalformedCall, to_tool_calls, warn_of_whole_turns
from verl_cleaner.rollout.tool_turn import ToolTurnLoop
from verl_cleaner.saar.config import RollbackLogprobs, RollbackMode, SimilarityOn
from verl_cleaner.saar.feedback import Feedback, explain, give_up_note
from verl_cleaner.saar.gate import derive_seed
from verl_cleaner.saar.leaf import Leaf, make_leaf
from verl_cleaner.saar.outcome import FailureKind, InfrastructureError
from verl_cleaner.saar.overwrite import Strategy, overwrite_turn
from verl_cleaner.saar.pair import Pair, make_pair
from verl_cleaner.saar.record import GOES_ON, Attempt, Retry, RetryResult
from verl_cleaner.saar.segment import Turn, find_boundary
from verl_cleaner.saar.similarity import arguments_text, similarity

RECORD_FIELD = "rollback_record"
"""Key of the trajectory's record in `AgentLoopOutput.extra_fields`."""

_LONG = 2000
"""Characters from which a comparison would hold up the event loop."""


class ToolAgentLoop(ToolTurnLoop):
    """One instance runs one trajectory, as VeRL's does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rollback_config = rollback_config(self.rollout_config.multi_turn)
        if self.rollback_config.enable_tool_rollback and self._wants_rescoring():
            rescore.check_config(self.rollout_config)
        self.tool_parser = CallReader(self.tool_parser_name, self.tokenizer, max_calls=self.max_parallel_calls)
        if self.rollback_config.enable_tool_rollback and self.tool_parser.format is None:
            warn_of_whole_turns(self.tool_parser_name)
        # Of the turn in progress: the tokens that failed last and first, the first of its tokens that was overwritten,
        # and what the last overwrite replaced.
        self._turn = Turn(())
        self._first: Turn | None = None
        self._purified_from: int | None = None
        self._pair: Pair | None = None
        self._leaf: Leaf | None = None

    def _wants_rescoring(self) -> bool:
        return self.rollback_config.rollback_logprobs == RollbackLogprobs.RESCORE

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        validate = bool(kwargs.pop("is_validation", False))
        sample = (kwargs.get("global_steps"), kwargs.get("index"), kwargs.get("session_id"))
        self.key = (self.rollout_config.get("seed", 0), "val" if validate else "train", *map(_plain, sample))
        step = int(kwargs.get("global_steps") or 1)
        self.rollback = RollbackManager(self.rollback_config, validate=validate, step=step, key=self.key)
        self._rescores = self._wants_rescoring() and rescore.is_exact(sampling_params)
        limit = self.rollback_config.trajectory_deadline
        try:
            async with asyncio.timeout(limit) as deadline:
                output = await super().run(sampling_params, priority, **kwargs)
                if self._rescores:
                    media = {"image_data": (output.multi_modal_data or {}).get("images")}
                    await rescore.rescore_output(self.server_manager, output, self.rollback.record, **media)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise InfrastructureError(f"a trajectory did not end within trajectory_deadline={limit} s") from error
        record = self.rollback.record
        record.response_tokens = len(output.response_ids)
        output.extra_fields[RECORD_FIELD] = record.as_dict()
        if not record.enabled:
            return output
        spans = tuple(record.overwritten_spans().values())
        kept = {"pairs": self.rollback.pairs, "leaves": self.rollback.leaves}
        return MarkedOutput.model_construct(**dict(output), spans=spans, **kept)

    # ---- generating ------------------------------------------------------------------------------------------------

    async def _handle_generating_state(
        self, agent_data: AgentData, sampling_params: dict[str, Any], ignore_termination: bool = False
    ) -> AgentState:
        self._sampling_params = sampling_params
        self._before = Snapshot.of(agent_data)
        self.rollback.policy.begin_turn()
        self._first = self._purified_from = self._pair = self._leaf = None
        # Broken calls are answered where they can be repaired; elsewhere VeRL drops them, and they are only counted.
        self.tool_parser.repair = self.rollback.policy.triggers((FailureKind.MALFORMED_CALL,))
        self.tool_parser.dropped = 0
        state = await self._generate(agent_data, sampling_params)
        self._dropped = (FailureKind.MALFORMED_CALL,) * self.tool_parser.dropped
        if self._dropped and state == AgentState.TERMINATED:
            self.rollback.record.attempts.append(Attempt(agent_data.assistant_turns, self._dropped, ()))
            self._note_failed_call(agent_data)
        return state

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

    # ---- processing tools ------------------------------------------------------------------------------------------

    async def _handle_processing_tools_state(self, agent_data: AgentData) -> AgentState:
        result = None
        while True:
            after_turn = Snapshot.of(agent_data)
            self._results.clear()
            state = await self._respond(agent_data)
            kinds = self._detect_errors(after_turn)
            self._note_failed_call(agent_data)
            if not self.rollback.policy.triggers(kinds):
                result = None
                break
            result = await self._handle_rollback(agent_data, after_turn, kinds)
            if result not in GOES_ON:
                break
        retries = self.rollback.policy.retries
        if retries or result is not None:
            self.rollback.close_turn(recovered=not kinds, pair=self._pair, leaf=self._leaf)
        if result is RetryResult.NO_CALL:
            return AgentState.TERMINATED
        note = give_up_note(retries) if kinds else ""
        if note or result is not None:
            after_turn.restore(agent_data)
            state = await self._respond(agent_data, wording=lambda text, _: text + note)
        return self._end_at_limit(agent_data, after_turn) or state

    def _note_failed_call(self, agent_data: AgentData) -> None:
        """Where the calls of the last attempt stand, if one of them failed."""
        attempts, ids = self.rollback.record.attempts, agent_data.response_ids
        if any(attempts[-1].kinds):
            start, boundary = len(self._before.response_mask), self._find_tool_call_token_boundary(ids)
            attempts[-1] = replace(attempts[-1], span=(start + (boundary or 0), start + len(ids)))

    # ---- rollback --------------------------------------------------------------------------------------------------

    async def _handle_rollback(
        self, agent_data: AgentData, after_turn: Snapshot, kinds: tuple[str, ...]
    ) -> RetryResult:
        """Retry the failed turn with its error in view and overwrite it.

        In: `agent_data` is the side context, the trajectory with the failed turn and its tool responses.
        Out, by result: OVERWRITTEN: the trajectory with the repaired turn, KEPT and VOIDED: the side context with the
        retry, whose tools have not run yet; NO_CALL: the side context with the retry's answer; else anything.
        """
        config, policy = self.rollback.config, self.rollback.policy
        self._turn = self._split_tool_call_segment(agent_data.response_ids, after_turn.response_logprobs)
        self._first = self._first or self._turn
        if config.rollback_feedback == Feedback.EXPLAINED:
            after_turn.restore(agent_data)
            await self._respond(agent_data, wording=explain)
        before, side = self._before, Snapshot.of(agent_data)
        base = before if config.rollback_mode == RollbackMode.OVERWRITE else side
        room = self.response_length - len(base.response_mask)
        budget = policy.budget(response_left=room, context_left=self.max_model_len - len(side.prompt_ids))
        note = partial(self._note_retry, after_turn, kinds)
        if budget < 1:
            return note(RetryResult.NO_ROOM)

        start = time.perf_counter()
        retry, new_calls, cut_off = await self._generate_retry(agent_data, budget)
        note = partial(note, generated=len(retry), seconds=round(time.perf_counter() - start, 4))
        # A retry that was cut off although an ordinary turn had more room is no answer.
        overlong = cut_off and len(agent_data.response_mask) < self.response_length
        if overlong or (not new_calls and len(side.response_mask) >= self.response_length):
            return note(RetryResult.NO_ROOM, discarded=len(retry))
        if not new_calls:
            agent_data.user_turns, agent_data.assistant_turns = side.user_turns, side.assistant_turns + 1
            return note(RetryResult.NO_CALL)
        note = partial(note, new_call=arguments_text(to_tool_calls(new_calls)))
        if base is side:
            return self._append_retry(agent_data, new_calls, side, note)
        ratio = await self._similarity(after_turn.tool_calls, retry, new_calls)
        note = partial(note, similarity=round(ratio, 4))
        return await self._replace_turn(agent_data, retry, new_calls, ratio, note)

    async def _generate_retry(self, agent_data: AgentData, budget: int) -> tuple[Turn, list[FunctionCall], bool]:
        """Let VeRL generate the next turn of the side context: (turn, calls, cut off); a turn cut off calls nothing."""
        policy = self.rollback.policy
        # The retry takes the failed turn's place in the turn budget.
        agent_data.user_turns, agent_data.assistant_turns = self._before.user_turns, self._before.assistant_turns
        self.tool_parser.repair, self._dropped = True, ()
        policy.begin_retry()
        await self._generate(agent_data, {**self._sampling_params, "max_tokens": budget}, ignore_termination=True)
        ids = agent_data.response_ids
        policy.end_retry(generated=len(ids))
        cut_off = len(ids) >= budget and ids[-1] not in self._stop_ids()
        retry = self._split_tool_call_segment(ids, agent_data.response_logprobs)
        return retry, [] if cut_off else agent_data.tool_calls, cut_off

    async def _replace_turn(
        self,
        agent_data: AgentData,
        retry: Turn,
        new_calls: list[FunctionCall],
        ratio: float,
        note: Callable[..., RetryResult],
    ) -> RetryResult:
        """Overwrite the failed turn by what `saar` makes of it and its retry."""
        config, before, failed = self.rollback.config, self._before, self._turn
        start = len(before.response_mask)
        # One token less than there is room: VeRL ends a trajectory that is full before it runs the tools.
        room = self.response_length - start - 1
        repaired = overwrite_turn(failed, retry, ratio=ratio, threshold=config.rollback_similarity_threshold, room=room)
        if repaired is None:
            return note(RetryResult.NO_ROOM, discarded=len(retry))
        turn, strategy = repaired
        content, calls = await self._read_turn(turn, agent_data)
        if strategy is Strategy.TOOL_CALL_ONLY and calls != new_calls:
            # The call reads differently behind the old reasoning.
            turn, strategy = retry, Strategy.FULL_TURN
            content, calls = await self._read_turn(turn, agent_data)
        first = (failed.boundary or 0) if strategy is Strategy.TOOL_CALL_ONLY else 0
        first = first if self._purified_from is None else min(first, self._purified_from)
        if config.rollback_min_logratio is not None and self._rescores:
            gap = await self._gap(turn, first, agent_data)
            if gap < config.rollback_min_logratio:
                return note(RetryResult.IMPLAUSIBLE, gap=gap, discarded=len(retry))
        await self._overwrite_last_assistant_turn(agent_data, before, turn, content, calls)
        self._purified_from, self._pair = first, make_pair(failed, turn, start=start)
        assert self._first is not None
        self._leaf = make_leaf(self._first, turn, replaced_from=first, start=start)
        discarded = len(failed) + len(retry) - len(turn)
        span = (start + first, start + len(turn))
        return note(RetryResult.OVERWRITTEN, strategy=strategy, discarded=discarded, span=span)

    async def _gap(self, turn: Turn, first: int, agent_data: AgentData) -> float:
        """log π(turn from token `first` on | clean) - log π(the same | as sampled)."""
        assert turn.logprobs is not None
        prompt = self._before.prompt_ids
        media = {"image_data": self._before.image_data, "video_data": agent_data.video_data}
        clean = await rescore.score(self.server_manager, [*prompt, *turn.ids], len(prompt) + first, **media)
        return sum(clean) - sum(turn.logprobs[first:])

    def _append_retry(
        self,
        agent_data: AgentData,
        new_calls: list[FunctionCall],
        side: Snapshot,
        note: Callable[..., RetryResult],
    ) -> RetryResult:
        """For the ablations: the failed turn and its error stay, and the retry follows them."""
        discarded = 0
        if self.rollback.config.rollback_mode == RollbackMode.VOID:
            discarded, start = len(self._turn), len(self._before.response_mask)
            mask, logprobs = agent_data.response_mask, agent_data.response_logprobs
            agent_data.response_mask = _overwritten(mask, start, [0] * discarded)
            agent_data.response_logprobs = _overwritten(logprobs, start, [0.0] * discarded) if logprobs else []
        agent_data.tool_calls = new_calls
        size = len(side.response_mask)
        self._before = replace(
            side,
            response_mask=agent_data.response_mask[:size],
            response_logprobs=agent_data.response_logprobs[:size],
            user_turns=self._before.user_turns,
            assistant_turns=self._before.assistant_turns,
        )
        return note(RetryResult.VOIDED if discarded else RetryResult.KEPT, discarded=discarded)

    async def _read_turn(self, turn: Turn, agent_data: AgentData) -> tuple[str, list[FunctionCall]]:
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

    def _split_tool_call_segment(self, ids: list[int], response_logprobs: list[float]) -> Turn:
        """The turn `ids`, with which the response ends."""
        logprobs = tuple(response_logprobs[len(response_logprobs) - len(ids) :]) if response_logprobs else None
        return Turn(tuple(ids), logprobs, self._find_tool_call_token_boundary(ids))

    def _find_tool_call_token_boundary(self, ids: list[int]) -> int | None:
        if self.tool_parser.format is None:
            return None
        # Ids beyond the vocabulary, which padded embeddings can yield, have no text.
        pieces = [piece or "" for piece in self.tokenizer.convert_ids_to_tokens(ids)]
        return find_boundary(pieces, self.tool_parser.format.start)

    async def _similarity(self, failed_calls: list[FunctionCall], retry: Turn, new_calls: list[FunctionCall]) -> float:
        if self.rollback.config.rollback_similarity_on == SimilarityOn.CALL:
            segments = (turn if turn.boundary is None else turn.tool_call for turn in (self._turn, retry))
            old, new = (self.tokenizer.decode(segment.ids) for segment in segments)
        else:
            old, new = (arguments_text(to_tool_calls(calls)) for calls in (failed_calls, new_calls))
        if len(old) + len(new) < _LONG:
            return similarity(old, new)
        return await asyncio.to_thread(similarity, old, new)

    def _stop_ids(self) -> set[int]:
        stops = self.tool_parser.format.stops if self.tool_parser.format else ()
        ids = self.tokenizer.convert_tokens_to_ids(list(stops))
        return {self.tokenizer.eos_token_id, *self.tool_parser.stop_token_ids, *ids}

    def _note_retry(
        self, after_turn: Snapshot, kinds: tuple[str, ...], result: RetryResult, **details: Any
    ) -> RetryResult:
        errors = (done.response.text or "" for done in self._results.values() if not done.outcome.ok)
        retry = Retry(
            turn=after_turn.assistant_turns,
            kinds=kinds,
            result=result,
            failed_call=arguments_text(to_tool_calls(after_turn.tool_calls)),
            error="\n".join(errors),
            malformed="\n".join(call.arguments for call in after_turn.tool_calls if isinstance(call, MalformedCall)),
            **details,
        )
        self.rollback.record.retries.append(retry)
        return result


def _overwritten(values: list[Any], start: int, new: list[Any]) -> list[Any]:
    return [*values[:start], *new, *values[start + len(new) :]]


def _plain(value: Any) -> Any:
    """A scalar as VeRL's batches hold it, as Python's own: seeds are derived from its repr."""
    return value.item() if hasattr(value, "item") else value
