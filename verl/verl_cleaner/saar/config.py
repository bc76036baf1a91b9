"""The parameters of SAAR, checked once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from math import isfinite
from typing import Any

from verl_cleaner.saar.feedback import Feedback
from verl_cleaner.saar.values import expect, is_integer, is_number


class SimilarityOn(StrEnum):
    ARGUMENTS = "arguments"
    """The call's arguments as the tool sees them (for code: the code)."""
    CALL = "call"
    """The text of the whole tool-call segment, as in the published code."""


class RollbackLogprobs(StrEnum):
    RECOMPUTE = "recompute"
    """The trainer recomputes the log-probs of the purified trajectory; those of the rollout are not used."""
    RESCORE = "rescore"
    """The rollout engine scores the overwritten spans again, without the error in view."""


class RollbackMode(StrEnum):
    """What becomes of a failed turn that has a retry."""

    OVERWRITE = "overwrite"
    """The retry replaces it (SAAR)."""
    KEEP = "keep"
    """It stays, with its error, and the retry follows (ablation: retries alone)."""
    VOID = "void"
    """It stays, with its error, but is not trained on (ablation: void-turn masking)."""


class OtherLoops(StrEnum):
    """What a trajectory of an agent loop without SAAR does to a run with rollback on."""

    STOP = "stop"
    """It ends the run, which names the loop and the row."""
    ALLOW = "allow"
    """It is sampled and trained on as it is, and counted as not rolled back."""


class FailedCalls(StrEnum):
    """What becomes of a failed call that its repair overwrote."""

    DISCARD = "discard"
    """Nothing is learnt from it, as published."""
    LEAF = "leaf"
    """It is trained on as a leaf of its group, with the score of a wrong answer (`verl_cleaner.training.credit`)."""


class LeafWeight(StrEnum):
    """What the leaves of one trajectory weigh in its group."""

    FULL = "full"
    """Each is a member."""
    SPLIT = "split"
    """All together are one member: they count once in mean and deviation, and split its gradient among them."""


@dataclass(frozen=True, slots=True)
class RollbackConfig:
    """Names and meanings as documented under `actor_rollout_ref.rollout.multi_turn`.

    Raises:
        ValueError: for a value out of range; names the key, the value and what is expected.
    """

    enable_tool_rollback: bool = False
    max_tool_retries: int = 3
    rollback_probability: float = 1.0
    rollback_anneal_steps: int | None = None
    rollback_at_validation: bool = True
    rollback_similarity_threshold: float = 0.5
    rollback_similarity_on: SimilarityOn = SimilarityOn.ARGUMENTS
    rollback_on_errors: tuple[str, ...] | None = None
    rollback_logprobs: RollbackLogprobs = RollbackLogprobs.RECOMPUTE
    rollback_min_logratio: float | None = None
    rollback_mode: RollbackMode = RollbackMode.OVERWRITE
    rollback_feedback: Feedback = Feedback.RAW
    rollback_max_retries: int | None = None
    rollback_max_tokens: int | None = None
    save_negative_samples: bool = False
    max_negative_samples_per_group: int = 1
    rollback_failed_calls: FailedCalls = FailedCalls.DISCARD
    rollback_failed_call_score: float | None = None
    rollback_failed_call_weight: LeafWeight = LeafWeight.SPLIT
    rollback_stratified: bool = False
    trajectory_deadline: float | None = 7200.0
    tool_contracts: Mapping[str, Mapping[str, Any]] | None = None
    rollback_other_loops: OtherLoops = OtherLoops.STOP

    def __post_init__(self) -> None:
        for keys, fits, expected in _EXPECTED:
            for key in keys:
                value = getattr(self, key)
                expect(fits(value), key, value, expected)
        for key, enum in _CHOICES.items():
            value = getattr(self, key)
            expect(value in list(enum), key, value, f"one of {', '.join(enum)}")
        ratio = self.rollback_min_logratio
        if ratio is not None and self.rollback_logprobs != RollbackLogprobs.RESCORE:
            raise ValueError(
                f"rollback_min_logratio={ratio} needs rollback_logprobs=rescore, got {str(self.rollback_logprobs)!r}"
            )
        self._check_overwritten_calls()
        kinds = self.rollback_on_errors
        if kinds is not None and (isinstance(kinds, str) or not kinds or not all(isinstance(k, str) for k in kinds)):
            raise ValueError(
                "rollback_on_errors must be null (every fault of the model's) or a list of failure kinds such as "
                f"[NameError,timeout], got {kinds!r}"
            )
        contracts = self.contracts
        if not isinstance(contracts, Mapping) or not all(isinstance(values, Mapping) for values in contracts.values()):
            raise ValueError(
                "tool_contracts must map a tool's name to its values, such as {search: {idempotent: false}}, got "
                f"{contracts!r}"
            )

    @property
    def contracts(self) -> Mapping[str, Mapping[str, Any]]:
        return self.tool_contracts or {}

    def applies(self, *, validate: bool) -> bool:
        """Whether rollback is on for training or for validation."""
        return self.enable_tool_rollback and (self.rollback_at_validation or not validate)

    def probability_at(self, step: int) -> float:
        """Share of the trajectories of a training step (the first is 1) that may roll back."""
        if self.rollback_anneal_steps is None:
            return self.rollback_probability
        return self.rollback_probability * max(0.0, 1 - (step - 1) / self.rollback_anneal_steps)

    def _check_overwritten_calls(self) -> None:
        expected = {"enable_tool_rollback": True, "rollback_mode": RollbackMode.OVERWRITE}
        wanted = {
            "save_negative_samples=True": (self.save_negative_samples, "a negative"),
            "rollback_failed_calls=leaf": (self.rollback_failed_calls == FailedCalls.LEAF, "a leaf"),
        }
        for setting, (on, name) in wanted.items():
            for key, value in expected.items():
                if on and getattr(self, key) != value:
                    raise ValueError(
                        f"{setting} needs {key}={value}, got {getattr(self, key)}: {name} is a failed call that its "
                        "repair overwrote"
                    )


def _boolean(value: object) -> bool:
    return isinstance(value, bool)


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


_EXPECTED: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("enable_tool_rollback", "rollback_at_validation"), _boolean, "True or False"),
    (("save_negative_samples", "rollback_stratified"), _boolean, "True or False"),
    (("max_tool_retries", "max_negative_samples_per_group"), partial(is_integer, least=0), "an integer >= 0"),
    (
        ("rollback_max_retries", "rollback_max_tokens"),
        _or_null(partial(is_integer, least=0)),
        "an integer >= 0 or null",
    ),
    (("rollback_anneal_steps",), _or_null(partial(is_integer, least=1)), "an integer >= 1 or null"),
    (("rollback_probability", "rollback_similarity_threshold"), lambda x: is_number(x) and 0 <= x <= 1, "in [0, 1]"),
    (("trajectory_deadline",), _or_null(lambda x: is_number(x) and x > 0), "a number of seconds > 0 or null"),
    (
        ("rollback_min_logratio",),
        _or_null(lambda x: is_number(x) and x == x),
        "a number (a log-ratio, below 0) or null",
    ),
    (("rollback_failed_call_score",), _or_null(lambda x: is_number(x) and isfinite(x)), "a number or null"),
)
"""(keys, what fits, what is expected)."""
_CHOICES: dict[str, type[StrEnum]] = {
    "rollback_similarity_on": SimilarityOn,
    "rollback_logprobs": RollbackLogprobs,
    "rollback_mode": RollbackMode,
    "rollback_feedback": Feedback,
    "rollback_failed_calls": FailedCalls,
    "rollback_failed_call_weight": LeafWeight,
    "rollback_other_loops": OtherLoops,
}
