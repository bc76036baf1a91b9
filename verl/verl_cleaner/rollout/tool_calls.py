"""The calls of a turn: run them, say as data how each ended, append the responses, keep to the limits.

The part of the loop below rollback. Each call runs once, however often its response is worded.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData, AgentState
from verl.experimental.agent_loop.tool_parser import FunctionCall
from verl.tools.schemas import ToolResponse

from verl_cleaner.rollout.rollback_manager import RollbackManager
from verl_cleaner.rollout.snapshot import Snapshot
from verl_cleaner.rollout.tool_parser import MalformedCall
from verl_cleaner.rollout.tools.contract import contract_of
from verl_cleaner.rollout.tools.stand_in import OUTCOME_KEY, Note, ToolStandIn, noted
from verl_cleaner.rollout.tools.verdict import as_outcome, of_text
from verl_cleaner.rollout.turn import CallResult, ToolTurn
from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.outcome import OK, FailureKind, ToolOutcome

if TYPE_CHECKING:
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop as _Loop
else:
    _Loop = object

_NO_LIMIT = 1 << 60


class ToolCallsMixin(_Loop):
    """Over a subclass of VeRL's tool agent loop.

    rollback: set for each trajectory before its first turn. turn: the one in progress.
    """

    rollback_config: RollbackConfig
    tools: dict[str, Any]
    rollback: RollbackManager
    turn: ToolTurn
    response_length: int
    max_parallel_calls: int

    def _stand_in(self, tool: Any) -> ToolStandIn:
        return ToolStandIn(tool, contract_of(tool, self.rollback_config.contracts))

    async def _respond(self, agent_data: AgentData, wording: Callable[[str, str], str] | None = None) -> AgentState:
        """Run the calls of the turn's last version, unless they have run, and append their responses.

        wording: see `TurnAttempt`.

        Raises:
            InfrastructureError: a call ended in an outage. All calls have ended by then.
        """
        self.turn.attempt.wording = wording
        with self._side_context_may_exceed_the_response():
            state = await super()._handle_processing_tools_state(agent_data)
        self.turn.attempt.raise_outage()
        return state

    async def _call_tool(
        self, tool_call: FunctionCall, tools_kwargs: dict[str, Any], agent_data: AgentData
    ) -> tuple[ToolResponse, float | None, dict]:
        if not self._in_a_turn():
            outside = await self._execute(tool_call, tools_kwargs, agent_data)
            outside.raise_outage()
            return outside.response, outside.reward, outside.details
        attempt = self.turn.attempt
        if id(tool_call) not in attempt.results:
            result = self.turn.take_kept(tool_call) or await self._execute(tool_call, tools_kwargs, agent_data)
            attempt.results[id(tool_call)] = result
        result = attempt.results[id(tool_call)]
        return attempt.worded(tool_call), result.reward, result.details

    def _in_a_turn(self) -> bool:
        """False where a loop calls a tool before its first turn."""
        turn: ToolTurn | None = getattr(self, "turn", None)
        return turn is not None and bool(turn.attempts)

    async def _execute(
        self, tool_call: FunctionCall, tools_kwargs: dict[str, Any], agent_data: AgentData
    ) -> CallResult:
        start = time.perf_counter()
        if isinstance(tool_call, MalformedCall):
            response = ToolResponse(text=f"Invalid tool call: {tool_call.reason}")
            return CallResult(tool_call, ToolOutcome.fault(FailureKind.MALFORMED_CALL), 0.0, response)
        tool = self._tool(tool_call, agent_data)
        with noted() as note:
            try:
                response, reward, details = await super()._call_tool(tool_call, tools_kwargs, agent_data)
            except Exception:
                # VeRL catches what a tool raises, but not from `release`.
                if note.outcome is None or note.outcome.reason is None:
                    raise
                response, reward, details = ToolResponse(), None, {}
        if note.stop is not None:
            raise note.stop
        # Lone surrogates, which JSON can spell, cannot be tokenised.
        response.text = (response.text or "").encode("utf-8", "replace").decode()
        outcome = self._outcome(note, tool, response.text, details or {})
        seconds = time.perf_counter() - start
        return CallResult(tool_call, outcome, seconds, response, reward, details or {}, tool if note.ran else None)

    def _outcome(self, note: Note, tool: ToolStandIn | None, text: str, details: dict[str, Any]) -> ToolOutcome:
        if note.outcome is not None:
            return note.outcome
        if note.ran and tool is not None:
            verdict = of_text(note.text, tool.contract.on_text)
            return OK if verdict is None else as_outcome(verdict, f"tool {tool.name!r} answered: {note.text[:200]}")
        outcome = details.get(OUTCOME_KEY)
        return outcome if isinstance(outcome, ToolOutcome) else self._detect_error_from_text(text)

    def _detect_error_from_text(self, text: str) -> ToolOutcome:
        """For a call that no tool has seen: the text is VeRL's own, or comes from a loop that answers some calls."""
        if text.startswith("Unknown function '"):
            return ToolOutcome.fault(FailureKind.UNKNOWN_TOOL)
        if text.startswith("Invalid JSON in arguments for '"):
            return ToolOutcome.fault(FailureKind.MALFORMED_CALL)
        verdict = of_text(text, self.rollback.error_patterns)
        return OK if verdict is None else as_outcome(verdict, f"a call was answered: {text[:200]}")

    def _active_tools(self, agent_data: AgentData) -> dict[str, Any]:
        """Those of the sample, which VeRL's `run` notes on the trajectory; all where a loop's own `run` notes none."""
        tools: dict[str, Any] = getattr(agent_data, "_active_tools", self.tools)
        return tools

    def _tool(self, tool_call: FunctionCall, agent_data: AgentData) -> ToolStandIn | None:
        """Also for tools that a loop has added to the trajectory."""
        tools = self._active_tools(agent_data)
        tool = tools.get(tool_call.name)
        if tool is not None and not isinstance(tool, ToolStandIn):
            tool = self._stand_in(tool)
            agent_data._active_tools = {**tools, tool_call.name: tool}
        return tool

    # ---- limits ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _side_context_may_exceed_the_response(self) -> Iterator[None]:
        """Where a rollback may follow, an error that does not fit the response is appended all the same: the side
        context is thrown away."""
        limit = self.response_length
        if self.rollback.eligible:
            self.response_length = _NO_LIMIT
        try:
            yield
        finally:
            self.response_length = limit

    def _end_at_limit(self, agent_data: AgentData, after_turn: Snapshot) -> AgentState | None:
        """As VeRL does: tool responses that do not fit are left away, and the trajectory ends.

        Also where the rollout engine would refuse the next request for its length, which VeRL lets happen.
        """
        fits = len(agent_data.prompt_ids) < self.max_model_len
        if fits and len(agent_data.response_mask) < self.response_length:
            return None
        rewards = agent_data.tool_rewards
        after_turn.restore(agent_data)
        agent_data.tool_rewards = rewards
        return AgentState.TERMINATED
