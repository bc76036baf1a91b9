"""SAAR around VeRL's tool agent loop: the asynchronous shell; every decision is made in `verl_cleaner.saar`.

VeRL's loop alternates GENERATING and PROCESSING_TOOLS. A failed turn is repaired inside PROCESSING_TOOLS:

    before      the state from before the turn                        (kept when the turn is generated)
    failed      the turn, and its tool responses                      VeRL's handler runs the tools and appends them:
    side        before + failed turn + its error                      the side context, an ordinary conversation
    retry       VeRL's handler generates the next turn there
    repaired    back to `before`, append the overwritten turn, run its tools                   (`_handle_rollback`)

Start reading at `_handle_rollback`; `retry.py` goes on from there. The turn in progress is one value, `turn.ToolTurn`.
The trajectory's statistics, for which VeRL's `AgentData` has no place, are in `RollbackManager.record`.
With rollback off, VeRL's handlers run unchanged. Two things are added: a trajectory ends at `trajectory_deadline`, and
where the rollout engine's context is full.
"""

import asyncio
import hashlib
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.experimental.agent_loop.tool_agent_loop import AgentData, AgentState
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop as StockToolAgentLoop

from verl_cleaner.config import rollback_config
from verl_cleaner.rollout import rescore
from verl_cleaner.rollout.carried import MarkedOutput
from verl_cleaner.rollout.retry import RetryMixin
from verl_cleaner.rollout.rollback_manager import RollbackManager
from verl_cleaner.rollout.snapshot import Snapshot
from verl_cleaner.rollout.tool_parser import CallReader, warn_of_whole_turns
from verl_cleaner.rollout.tools.state import ToolState
from verl_cleaner.rollout.turn import ToolTurn
from verl_cleaner.saar.config import RollbackConfig, RollbackLogprobs
from verl_cleaner.saar.feedback import Feedback, explain, give_up_note
from verl_cleaner.saar.outcome import FailureKind, InfrastructureError
from verl_cleaner.saar.record import GOES_ON, RECORD_FIELD, RetryResult


class RollbackMixin(RetryMixin):
    """SAAR over any subclass of VeRL's ToolAgentLoop. One instance runs one trajectory, as VeRL's does.

    class MyLoop(RollbackMixin, TheirLoop): ...
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        above = cls.__mro__[1 : cls.__mro__.index(RollbackMixin)]
        misplaced = any(issubclass(base, AgentLoopBase) and not issubclass(base, RollbackMixin) for base in above)
        foreign = issubclass(cls, AgentLoopBase) and not issubclass(cls, StockToolAgentLoop)
        if misplaced or foreign:
            bases = ", ".join(base.__name__ for base in cls.__bases__)
            raise TypeError(
                f"class {cls.__name__}({bases}): RollbackMixin works over a subclass of VeRL's ToolAgentLoop and "
                "stands before it; write class MyLoop(RollbackMixin, TheirLoop)"
            )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_model_len = self.rollout_config.get("max_model_len") or self.prompt_length + self.response_length
        self.rollback_config = rollback_config(self.rollout_config.multi_turn)
        if self.rollback_config.enable_tool_rollback and _wants_rescoring(self.rollback_config):
            rescore.check_config(self.rollout_config)
        self.tool_parser = CallReader(self.tool_parser_name, self.tokenizer, max_calls=self.max_parallel_calls)
        if self.rollback_config.enable_tool_rollback and self.tool_parser.format is None:
            warn_of_whole_turns(self.tool_parser_name)
        self.tools: dict[str, Any] = {name: self._stand_in(tool) for name, tool in self.tools.items()}

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        validate = bool(kwargs.pop("is_validation", False))
        sample = (kwargs.get("global_steps"), _row(kwargs), kwargs.get("session_id"))
        self.key = (self.rollout_config.get("seed", 0), "val" if validate else "train", *map(_plain, sample))
        step = int(kwargs.get("global_steps") or 1)
        self.rollback = RollbackManager(self.rollback_config, validate=validate, step=step, key=self.key)
        self.rescores = _wants_rescoring(self.rollback_config) and rescore.is_exact(sampling_params)
        limit = self.rollback_config.trajectory_deadline
        try:
            async with asyncio.timeout(limit) as deadline:
                output = await super().run(sampling_params, priority, **kwargs)
                if self.rescores:
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
        self.turn = ToolTurn(before=Snapshot.of(agent_data))
        self.rollback.policy.begin_turn()
        # Broken calls are answered where they can be repaired; elsewhere VeRL drops them, and they are only counted.
        self.tool_parser.repair = self.rollback.policy.triggers((FailureKind.MALFORMED_CALL,))
        self.tool_parser.dropped = 0
        state = await self._generate(agent_data, sampling_params)
        if self.tool_parser.dropped and state == AgentState.TERMINATED:
            self.turn.begin_attempt(agent_data, dropped=self.tool_parser.dropped)
            self._detect_errors(agent_data)
        return state

    # ---- processing tools ------------------------------------------------------------------------------------------

    async def _handle_processing_tools_state(self, agent_data: AgentData) -> AgentState:
        turn = self.turn
        while True:
            turn.begin_attempt(agent_data, dropped=self.tool_parser.dropped)
            await self._remember_tool_state(agent_data)
            state = await self._respond(agent_data)
            kinds = self._detect_errors(agent_data)
            if not self.rollback.policy.triggers(turn.attempt.repairable(taking_back=self._overwrites())):
                turn.result = None
                break
            turn.result = await self._handle_rollback(agent_data)
            if turn.result not in GOES_ON:
                break
        retries = self.rollback.policy.retries
        if retries or turn.result is not None:
            self.rollback.close_turn(turn)
        if turn.result is RetryResult.NO_CALL:
            return AgentState.TERMINATED
        note = give_up_note(retries) if kinds else ""
        if note or turn.result is not None:
            turn.attempt.after.restore(agent_data)
            state = await self._respond(agent_data, wording=lambda text, _: text + note)
        return self._end_at_limit(agent_data, turn.attempt.after) or state

    async def _remember_tool_state(self, agent_data: AgentData) -> None:
        """Before the calls of a version run that a retry may overwrite."""
        if self.rollback.policy.active and self._overwrites():
            tools = (self._tool(call, agent_data) for call in agent_data.tool_calls[: self.max_parallel_calls])
            called = [tool for tool in tools if tool is not None]
            self.turn.attempt.tool_state = await ToolState.of(agent_data, called)

    def _detect_errors(self, agent_data: AgentData) -> tuple[str, ...]:
        """Failure kinds of the calls that have just run. Also writes the attempt into the record."""
        turn, attempt = self.turn, self.turn.attempt
        if attempt.failed:
            attempt.tokens = self._split_tool_call_segment(agent_data.response_ids, attempt.after.response_logprobs)
        self.rollback.record.attempts.append(attempt.as_record(start=turn.start))
        return attempt.failures

    # ---- rollback --------------------------------------------------------------------------------------------------

    async def _handle_rollback(self, agent_data: AgentData) -> RetryResult:
        """Retry the failed turn with its error in view and overwrite it.

        In: `agent_data` is the side context, the trajectory with the failed turn and its tool responses.
        Out, by result: OVERWRITTEN: the trajectory with the repaired turn, KEPT and VOIDED: the side context with the
        retry, whose tools have not run yet; NO_CALL: the side context with the retry's answer; else anything.
        """
        self.turn.keep_results(agent_data)
        if self.rollback.config.rollback_feedback == Feedback.EXPLAINED:
            self.turn.attempt.after.restore(agent_data)
            await self._respond(agent_data, wording=explain)
        row = await self._retry(agent_data, side=Snapshot.of(agent_data))
        self.rollback.record.retries.append(row)
        return row.result


class ToolAgentLoop(RollbackMixin, StockToolAgentLoop):
    """VeRL's loop with SAAR: the plug-in registers it as "tool_agent"."""


def _plain(value: Any) -> Any:
    """A scalar as VeRL's batches hold it, as Python's own: seeds are derived from its repr."""
    return value.item() if hasattr(value, "item") else value


def _wants_rescoring(config: RollbackConfig) -> bool:
    return config.rollback_logprobs == RollbackLogprobs.RESCORE


def _row(sample: dict[str, Any]) -> Any:
    """What tells the rows of a data set apart: their index, or their prompt where they have none and VeRL says 0."""
    extra = sample.get("extra_info")
    if isinstance(extra, dict) and "index" not in extra and "raw_prompt" in sample:
        return hashlib.sha256(repr(list(sample["raw_prompt"])).encode()).hexdigest()
    return sample.get("index")
