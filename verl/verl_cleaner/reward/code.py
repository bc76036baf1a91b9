"""Programs: the share of tests passed, -1 without a program that Python can read; accurate only if every test passes.

What is scored is the last program in the policy's last turn (see `fences`). It goes to the judge with its tests,
many at a time; with `early_stop`, where only accuracy counts, up to the first that fails.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from code_judge.wire import TIMEOUT_MARK, CaseResult
from verl_cleaner.reward.answers import last_python_block
from verl_cleaner.reward.cases import Case, Cases, read_cases
from verl_cleaner.reward.judging import MOST_TEXT, Judge
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
    verdicts = await _verdicts(source, cases, judge=judge, early_stop=early_stop)
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


async def _verdicts(source: str, cases: Cases, *, judge: Judge, early_stop: bool) -> list[_Verdict]:
    """In the order of the cases; with early_stop, up to the first that fails."""

    async def run(some: Sequence[Case]) -> list[_Verdict]:
        result = await judge.run(cases.submission(source, some, early_stop=early_stop))
        return [_verdict(case, test) for case, test in zip(some, result.tests or (), strict=False)]

    portions = list(_portions(cases.cases, judge.most_tests))
    if not early_stop:
        return [verdict for found in await asyncio.gather(*map(run, portions)) for verdict in found]
    verdicts: list[_Verdict] = []
    for portion in portions:
        verdicts += await run(portion)
        if any(verdict.reason for verdict in verdicts):
            break
    return verdicts


def _portions(cases: Sequence[Case], most: int) -> Iterator[Sequence[Case]]:
    """As many as one submission may have."""
    start = text = 0
    for place, case in enumerate(cases):
        length = len(case.stdin) + sum(map(len, case.expected))
        if place > start and (place - start >= most or text + length > MOST_TEXT):
            yield cases[start:place]
            start, text = place, 0
        text += length
    yield cases[start:]


def _verdict(case: Case, test: CaseResult) -> _Verdict:
    if test.success:
        return _Verdict(Reason.RIGHT, case.assertions)
    # The judge's note of a timeout is no mark.
    output = test.stdout.removesuffix(TIMEOUT_MARK)
    return _Verdict(Reason.WRONG_OUTPUT if test.run_success else test.kind, case.held(output))
