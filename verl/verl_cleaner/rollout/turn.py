"""One turn that calls tools: the state before it, its versions, the results of their calls, and the last result."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData
from verl.experimental.agent_loop.tool_parser import FunctionCall
from verl.tools.schemas import ToolResponse

from verl_cleaner.rollout.snapshot import Snapshot
from verl_cleaner.rollout.tool_parser import MalformedCall, parsed, to_tool_calls
from verl_cleaner.rollout.tools.stand_in import ToolStandIn
from verl_cleaner.rollout.tools.state import ToolState
from verl_cleaner.saar.outcome import FailureKind, InfrastructureError, ToolOutcome
from verl_cleaner.saar.record import Attempt, Retry, RetryResult
from verl_cleaner.saar.segment import Turn
from verl_cleaner.saar.similarity import arguments_text


@dataclass(frozen=True, slots=True)
class CallResult:
    """One executed call. seconds: waiting included. tool: whose code ran; None where none was reached."""

    call: FunctionCall
    outcome: ToolOutcome
    seconds: float
    response: ToolResponse
    reward: float | None = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    tool: ToolStandIn | None = None

    def raise_outage(self) -> None:
        """Raises InfrastructureError if the call ended in an outage."""
        if self.outcome.reason is not None:
            raise InfrastructureError(self.outcome.reason)

    def may_stand_for(self, call: FunctionCall) -> bool:
        """Whether `call` would come to this result too, so that it need not run."""
        if not self.outcome.ok or self.tool is None or not self.tool.contract.idempotent or self.tool.contract.stateful:
            return False
        arguments = parsed(call.arguments)
        return call.name == self.call.name and arguments is not None and arguments == parsed(self.call.arguments)


@dataclass(slots=True)
class TurnAttempt:
    """One version of a turn whose calls are run.

    after: the trajectory right behind the version's tokens, without any tool response.
    dropped: how many broken calls were left out, because rollback could not answer them.
    results: by id(call), in the order in which calls ended.
    tool_state: what tools kept beside the tokens before the calls ran; None where no rollback can follow.
    wording: (response, failure kind) -> what the response to a failed call says; None: what the tool said.
    tokens: as sampled, split at the first call. Filled in where a call failed.
    """

    after: Snapshot
    dropped: int = 0
    results: dict[int, CallResult] = field(default_factory=dict)
    tool_state: ToolState | None = None
    wording: Callable[[str, str], str] | None = None
    tokens: Turn = field(default_factory=lambda: Turn(()))

    @property
    def calls(self) -> list[FunctionCall]:
        return self.after.tool_calls

    def finished(self) -> Iterator[CallResult]:
        """Results in the order in which the calls were written; last those of calls that the loop made up."""
        written = [id(call) for call in self.calls]
        keys = [key for key in written if key in self.results] + [key for key in self.results if key not in written]
        return (self.results[key] for key in keys)

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """How each call ended, None = it succeeded; broken calls that were left out come last."""
        return (*(result.outcome.kind for result in self.finished()), *(FailureKind.MALFORMED_CALL,) * self.dropped)

    @property
    def failed(self) -> bool:
        return any(self.kinds)

    @property
    def failures(self) -> tuple[str, ...]:
        """Failure kinds of the calls that were answered."""
        return tuple(kind for result in self.finished() if (kind := result.outcome.kind) is not None)

    def repairable(self, *, taking_back: bool) -> tuple[str, ...]:
        """Failure kinds that a retry may answer; none where a call ran that must not run again.

        taking_back: the retry takes the place of this version, so that its calls have to be undone.
        """
        done = list(self.finished())
        if taking_back and not all(result.tool is None or result.tool.contract.reversible for result in done):
            return ()
        failed = ((r.outcome.kind, r.tool) for r in done if r.outcome.kind is not None)
        return tuple(kind for kind, tool in failed if tool is None or tool.contract.repairable)

    def raise_outage(self) -> None:
        for result in self.finished():
            result.raise_outage()

    @property
    def arguments(self) -> str:
        return arguments_text(to_tool_calls(self.calls))

    def as_record(self, *, start: int) -> Attempt:
        """start: index in the response of the version's first token."""
        seconds = tuple(round(done.seconds, 4) for done in self.finished())
        first, end = start + (self.tokens.boundary or 0), start + len(self.tokens)
        return Attempt(self.after.assistant_turns, self.kinds, seconds, span=(first, end) if self.failed else None)

    def worded(self, call: FunctionCall) -> ToolResponse:
        """What is appended as the response to a finished call."""
        result = self.results[id(call)]
        if self.wording is None or result.outcome.kind is None:
            return result.response
        text = self.wording(result.response.text or "", result.outcome.kind)
        return result.response.model_copy(update={"text": text})

    def retry_row(self) -> Retry:
        """The record of a retry of this version, as far as it is known before anything is generated."""
        errors = (result.response.text or "" for result in self.results.values() if not result.outcome.ok)
        return Retry(
            turn=self.after.assistant_turns,
            kinds=self.failures,
            result=RetryResult.NO_ROOM,
            failed_call=self.arguments,
            error="\n".join(errors),
            malformed="\n".join(call.arguments for call in self.calls if isinstance(call, MalformedCall)),
        )


@dataclass(slots=True)
class ToolTurn:
    """A turn from its first generation to the version that stays in the trajectory.

    before: the state that the next version is appended to. Overwriting goes back to it; where failed versions stay
        (`rollback_mode` keep and void), it moves behind them.
    attempts: versions whose calls ran, in order. The policy sampled the first one without an error in view; the last
        one stays in the trajectory.
    repaired: the tokens of the last version that overwrote another one. repaired_from: index in the turn of the first
        token that any retry overwrote. None: nothing was overwritten.
    kept: results of the version that was taken back last, which may stand for the same calls of the next one.
    result: of the last retry; None where there was none, or where its calls ran and the turn ended with them.
    """

    before: Snapshot
    attempts: list[TurnAttempt] = field(default_factory=list)
    repaired: Turn | None = None
    repaired_from: int | None = None
    kept: list[CallResult] = field(default_factory=list)
    result: RetryResult | None = None

    def begin_attempt(self, agent_data: AgentData, *, dropped: int) -> None:
        """The trajectory ends with a new version of the turn, whose calls are run next."""
        self.attempts.append(TurnAttempt(Snapshot.of(agent_data), dropped))

    def keep_results(self, agent_data: AgentData) -> None:
        """Before the last version is taken back: its results may stand for the same calls of the next one, unless calls
        of this version left something on the trajectory that goes back with it."""
        state = self.attempt.tool_state
        self.kept = list(self.attempt.finished()) if state is not None and not state.changed(agent_data) else []

    def take_kept(self, call: FunctionCall) -> CallResult | None:
        """The kept result that stands for `call`, each once."""
        for result in self.kept:
            if result.may_stand_for(call):
                self.kept.remove(result)
                return replace(result, call=call)
        return None

    @property
    def attempt(self) -> TurnAttempt:
        return self.attempts[-1]

    @property
    def start(self) -> int:
        """Index in the response of the turn's first token."""
        return len(self.before.response_mask)

    @property
    def recovered(self) -> bool:
        return not self.attempt.failures
