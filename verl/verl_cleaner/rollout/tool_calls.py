"""The calls of a turn: run them, say as data how each ended, append the responses, keep to the limits.

The part of the loop below rollback. Each call runs once, however often its response is worded.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData, AgentState
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop as StockToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall
from verl.tools.schemas import ToolResponse

from verl_cleaner.rollout import tool_watch
from verl_cleaner.rollout.rollback_manager import RollbackManager
from verl_cleaner.rollout.snapshot import Snapshot
from verl_cleaner.rollout.tool_parser import MalformedCall
from verl_cleaner.rollout.turn import CallResult, ToolTurn
from verl_cleaner.saar.outcome import OK, FailureKind, InfrastructureError, Outcome

_NO_LIMIT = 1 << 60


class ToolCallsLoop(StockToolAgentLoop):
    """VeRL's loop with outcomes.

    rollback: set for each trajectory before its first turn. turn: the one in progress.
    """

    rollback: RollbackManager
    turn: ToolTurn
    response_length: int
    max_parallel_calls: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_model_len = self.rollout_config.get("max_model_len") or self.prompt_length + self.response_length
        for tool in self.tools.values():
            tool_watch.watch(tool)

    async def _respond(self, agent_data: AgentData, wording: Callable[[str, str], str] | None = None) -> AgentState:
        """Run the calls of the turn's last version, unless they have run, and append their responses.

        wording: see `TurnAttempt`.
        """
        self.turn.attempt.wording = wording
        with self._side_context_may_exceed_limits(agent_data):
            return await super()._handle_processing_tools_state(agent_data)

    @staticmethod
    def _detect_error_from_text(text: str) -> Outcome:
        """For a call whose tool never ran: the text is VeRL's own."""
        if text.startswith("Unknown function '"):
            return Outcome(FailureKind.UNKNOWN_TOOL)
        if text.startswith("Invalid JSON in arguments for '"):
            return Outcome(FailureKind.MALFORMED_CALL)
        return Outcome(FailureKind.TOOL_ERROR)

    async def _call_tool(
        self, tool_call: FunctionCall, tools_kwargs: dict[str, Any], agent_data: AgentData
    ) -> tuple[ToolResponse, float, dict]:
        attempt = self.turn.attempt
        if id(tool_call) not in attempt.results:
            attempt.results[id(tool_call)] = await self._execute(tool_call, tools_kwargs, agent_data)
        result = attempt.results[id(tool_call)]
        return attempt.worded(tool_call), result.reward, result.details

    async def _execute(
        self, tool_call: FunctionCall, tools_kwargs: dict[str, Any], agent_data: AgentData
    ) -> CallResult:
        start = time.perf_counter()
        execution = tool_watch.begin()
        if isinstance(tool_call, MalformedCall):
            response, reward = ToolResponse(text=f"Invalid tool call: {tool_call.reason}"), 0.0
            details: dict[str, Any] = {"outcome": Outcome(FailureKind.MALFORMED_CALL)}
        else:
            response, reward, details = await super()._call_tool(tool_call, tools_kwargs, agent_data)
            details = details or {}
        error = execution.error
        if isinstance(error, InfrastructureError):
            raise error
        if "raise" in details:
            raise details["raise"]
        # Lone surrogates, which JSON can spell, cannot be tokenised.
        response.text = (response.text or "").encode("utf-8", "replace").decode()
        outcome = details.get("outcome")
        if outcome is None and execution.started:
            fits = _arguments_fit(self._active_tools(agent_data)[tool_call.name], tool_call.arguments)
            outcome = OK if error is None else Outcome(FailureKind.TOOL_ERROR if fits else FailureKind.MALFORMED_CALL)
        outcome = outcome or self._detect_error_from_text(response.text)
        return CallResult(outcome, time.perf_counter() - start, response, reward, details)

    def _active_tools(self, agent_data: AgentData) -> dict[str, Any]:
        """Those of the sample, which VeRL notes on the trajectory."""
        return getattr(agent_data, "_active_tools", None) or {}

    # ---- limits ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _side_context_may_exceed_limits(self, agent_data: AgentData) -> Iterator[None]:
        """Where a rollback may follow, an error that does not fit the response is appended all the same: the side
        context is thrown away. And calls above `max_parallel_calls` are answered, by an error."""
        limits = self.response_length, self.max_parallel_calls
        if self.rollback.eligible:
            self.response_length = _NO_LIMIT
        if any(isinstance(call, MalformedCall) for call in agent_data.tool_calls):
            self.max_parallel_calls = len(agent_data.tool_calls)
        try:
            yield
        finally:
            self.response_length, self.max_parallel_calls = limits

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


def _arguments_fit(tool: Any, arguments: str) -> bool:
    """Whether the names are those of the tool's schema; what a tool that raised was called with."""
    parameters, given = tool.tool_schema.function.parameters, json.loads(arguments)
    return isinstance(given, dict) and set(parameters.required) <= set(given) <= set(parameters.properties)
