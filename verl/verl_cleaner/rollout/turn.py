"""One turn that calls tools: what was before it, what was generated, what its calls came to, what became of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData
from verl.experimental.agent_loop.tool_parser import FunctionCall
from verl.tools.schemas import ToolResponse

from verl_cleaner.rollout.snapshot import Snapshot
from verl_cleaner.rollout.tool_parser import MalformedCall, to_tool_calls
from verl_cleaner.saar.leaf import Leaf, make_leaf
from verl_cleaner.saar.outcome import FailureKind, Outcome
from verl_cleaner.saar.pair import Pair, make_pair
from verl_cleaner.saar.record import Attempt, Retry, RetryResult
from verl_cleaner.saar.segment import Turn
from verl_cleaner.saar.similarity import arguments_text


@dataclass(frozen=True, slots=True)
class CallResult:
    """One executed call. seconds: waiting included."""

    outcome: Outcome
    seconds: float
    response: ToolResponse
    reward: float
    details: dict[str, Any]


@dataclass(slots=True)
class TurnAttempt:
    """One version of a turn whose calls are run.

    after: the trajectory right behind the version's tokens, without any tool response.
    dropped: how many broken calls VeRL's parser left out.
    results: by id(call), in the order in which calls ended.
    wording: (response, failure kind) -> what the response to a failed call says; None: what the tool said.
    tokens: as sampled, split at the first call. Filled in where a call failed.
    """

    after: Snapshot
    dropped: int = 0
    results: dict[int, CallResult] = field(default_factory=dict)
    wording: Callable[[str, str], str] | None = None
    tokens: Turn = field(default_factory=lambda: Turn(()))

    @property
    def calls(self) -> list[FunctionCall]:
        return self.after.tool_calls

    def finished(self) -> Iterator[CallResult]:
        """Results in the order in which the calls were written."""
        return (self.results[id(call)] for call in self.calls if id(call) in self.results)

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """How each call ended, None = it succeeded; broken calls that were left out come last."""
        return (*(result.outcome.kind for result in self.finished()), *(FailureKind.MALFORMED_CALL,) * self.dropped)

    @property
    def failed(self) -> bool:
        return any(self.kinds)

    @property
    def failures(self) -> tuple[str, ...]:
        """Failure kinds that a retry can answer: of the calls that ran. The turn is retried if there is one."""
        return tuple(kind for result in self.finished() if (kind := result.outcome.kind) is not None)

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
    repaired_from: index in the turn of the first token that a retry overwrote. None: nothing was overwritten.
    pair: the last failed call beside its repair. leaf: the first failed call; None where it was not overwritten.
    result: of the last retry; None where there was none, or where its calls ran and the turn ended with them.
    """

    before: Snapshot
    attempts: list[TurnAttempt] = field(default_factory=list)
    repaired_from: int | None = None
    pair: Pair | None = None
    leaf: Leaf | None = None
    result: RetryResult | None = None

    def begin_attempt(self, agent_data: AgentData, *, dropped: int) -> None:
        """The trajectory ends with a new version of the turn, whose calls are run next."""
        self.attempts.append(TurnAttempt(Snapshot.of(agent_data), dropped))

    @property
    def attempt(self) -> TurnAttempt:
        return self.attempts[-1]

    @property
    def start(self) -> int:
        """Index in the response of the turn's first token."""
        return len(self.before.response_mask)

    @property
    def first_failed(self) -> TurnAttempt | None:
        """The version that the policy sampled without an error in view, if it failed. `tokens` holds its ids, log-probs
        and boundary, `after` the trajectory that ends with it."""
        return self.attempts[0] if self.attempts and self.attempts[0].failed else None

    @property
    def recovered(self) -> bool:
        return not self.attempt.failures

    def first_overwritten(self, first: int) -> int:
        """Index of the first token that is not the policy's first attempt, where the next version differs from the
        last one from `first` on."""
        return first if self.repaired_from is None else min(first, self.repaired_from)

    def overwritten_by(self, tokens: Turn, *, first: int) -> None:
        """first: as `first_overwritten` says."""
        self.repaired_from = first
        self.pair = make_pair(self.attempt.tokens, tokens, start=self.start)
        self.leaf = make_leaf(self.attempts[0].tokens, tokens, replaced_from=first, start=self.start)
