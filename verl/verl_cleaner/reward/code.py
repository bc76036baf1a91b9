"""Programs: the share of tests passed, -1 without a program that Python can read; accurate only if every test passes.

What is scored is the last program in the policy's last turn (see `fences`). Tests run in the judge, all at once;
with `early_stop`, where only accuracy counts, in growing waves up to the first that fails.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from verl_cleaner.reward.answers import last_python_block
from verl_cleaner.reward.cases import Case, Cases, read_cases
from verl_cleaner.reward.judging import Judge
from verl_cleaner.reward.programs import syntax_problem
from verl_cleaner.reward.result import Reason, Reward

_UNREADABLE = -1.0


async def score(
    response: str, ground_truth: str | dict[str, Any], *, judge: Judge, early_stop: bool = False, where: str = "a row"
) -> Reward:
    """where: the row, for messages.

    Raises:
        ValueError: the ground truth is broken or has no test.
        InfrastructureError: the judge gave no verdict.
    """
    async with judge.programs:
        cases = read_cases(ground_truth, where=where)
        return await score_code(last_python_block(response), cases, judge=judge, early_stop=early_stop)


async def score_code(code: str | None, cases: Cases, *, judge: Judge, early_stop: bool = False) -> Reward:
    """code: None where there is none. Raises InfrastructureError."""
    if code is None:
        return _unreadable(Reason.NO_CODE)
    if syntax_problem(code) is not None:
        return _unreadable(Reason.SYNTAX_ERROR)
    source = cases.program(code)
    verdicts: list[_Verdict] = []
    for wave in _waves(cases.cases, growing=early_stop):
        verdicts += await asyncio.gather(*(_verdict(source, case, cases, judge) for case in wave))
        if early_stop and any(verdict.reason for verdict in verdicts):
            break
    reason = next((verdict.reason for verdict in verdicts if verdict.reason), Reason.RIGHT)
    right = float(reason == Reason.RIGHT)
    score = sum(verdict.reason == Reason.RIGHT for verdict in verdicts) / len(cases.cases)
    run = sum(case.assertions for case in cases.cases[: len(verdicts)])
    passed = sum(verdict.held for verdict in verdicts)
    share = passed / sum(case.assertions for case in cases.cases)
    return Reward(score, right, right, None, float(run), float(passed), share, reason)


def _unreadable(reason: Reason) -> Reward:
    return Reward(_UNREADABLE, 0.0, 0.0, None, 0.0, 0.0, 0.0, reason)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """reason: empty where the test passes, else why not. held: assertions of the test that hold."""

    reason: str
    held: int


def _waves(cases: Sequence[Case], *, growing: bool) -> Iterator[Sequence[Case]]:
    """All at once, or 1, 2, 4 … of them: a wrong program mostly fails the first."""
    size, start = 1 if growing else len(cases), 0
    while start < len(cases):
        yield cases[start : start + size]
        start, size = start + size, 2 * size


async def _verdict(source: str, case: Case, cases: Cases, judge: Judge) -> _Verdict:
    held = 0
    for alternative in range(len(case.expected)):
        result = await judge.run(cases.submission(source, case, alternative))
        if result.success:
            return _Verdict(Reason.RIGHT, case.assertions)
        held = case.held(result.stdout)
        if not result.run_success:
            return _Verdict(result.kind, held)
    return _Verdict(Reason.WRONG_OUTPUT, held)
