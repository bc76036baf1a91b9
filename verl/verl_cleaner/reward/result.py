"""What every reward function here returns, whatever the source: the same keys with the same meaning in each row.

VeRL writes them into `reward_extra_info` and its validation dump, and turns the numbers into metrics.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why an answer is not right. A program that fails also has what the judge calls it, e.g. timeout or NameError."""

    RIGHT = ""
    NO_ANSWER = "no_answer"
    WRONG_ANSWER = "wrong_answer"
    NO_CODE = "no_code"
    SYNTAX_ERROR = "syntax_error"
    WRONG_OUTPUT = "wrong_output"


@dataclass(frozen=True, slots=True)
class Reward:
    """score: what is trained on, before overlong shaping. acc: 1.0 or 0.0 by the strict rule. verified: the same by the
    kind's lenient rule (see docs/answers.md), equal to acc where there is none or it was not asked for. pred: the
    answer as the strict rule reads it, None for programs. tests, passed: how many were run to a verdict, and how many
    of them passed; 0 where nothing is run. Of a LeetCode row they are the assertions of its one test. share: passed of
    all tests; of a LeetCode row, whose score is all or nothing, it says how much was right. reason: see `Reason`."""

    score: float
    acc: float
    verified: float
    pred: str | None
    tests: float
    passed: float
    share: float
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reason": str(self.reason)}


def answer_reward(pred: str | None, *, right: bool, verified: bool | None = None, low: float = -1.0) -> Reward:
    """Of a short answer. pred: None where none was given. low: the score of one that is not right."""
    if pred is None:
        reason = Reason.NO_ANSWER
    else:
        reason = Reason.RIGHT if right else Reason.WRONG_ANSWER
    lenient = right if verified is None else verified
    return Reward(1.0 if right else low, float(right), float(lenient), pred or "", 0.0, 0.0, 0.0, reason)
