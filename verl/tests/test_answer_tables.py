"""Every row of docs/answers.md: right stays right, and wrong stays wrong."""

import asyncio

import pytest
from answer_tables import table
from live_judge import live_judge

from verl_cleaner.reward.router import compute_score

RIGHT, WRONG = "right by the lenient rule", "wrong by both rules"
DOUBLE = {"inputs": ["3", "4"], "outputs": ["6", "8"]}


def rewards(source, rows, **options):
    async def all_of_them():
        return await asyncio.gather(
            *(compute_score(source, response, truth, {"index": 7}, **options) for response, truth in rows)
        )

    return asyncio.run(all_of_them())


@pytest.mark.parametrize(("title", "source"), [("Mathematics", "math_dapo"), ("Multiple choice", "gpqa_diamond")])
def test_answers(title, source):
    right, wrong = table(f"{title}: {RIGHT}"), table(f"{title}: {WRONG}")
    assert min(len(right), len(wrong)) >= 60
    found = rewards(source, [row[:2] for row in right], math_verify=True)
    expected = [(1.0, float(strict == "yes")) for _, _, strict in right]
    assert_rows(right, [(reward["verified"], reward["acc"]) for reward in found], expected)
    assert [reward["score"] for reward in found] == [1.0 if acc else -1.0 for _, acc in expected]
    found = rewards(source, wrong, math_verify=True)
    assert_rows(wrong, [(reward["verified"], reward["score"]) for reward in found], [(0.0, -1.0)] * len(wrong))


def test_programs():
    right, wrong = table("Programs that are found whole, score 1"), table("No program, a broken one, or another one")
    assert min(len(right), len(wrong)) >= 60
    with live_judge(MAX_EXECUTION_TIME=10) as url:
        found = rewards("train-code-taco", [(row[0], DOUBLE) for row in right + wrong], judge_url=url)
    expected = [(1.0, "")] * len(right) + [(float(score.replace("−", "-")), reason) for _, score, reason in wrong]
    assert_rows(right + wrong, [(reward["score"], reward["reason"]) for reward in found], expected)


def assert_rows(rows, found, expected):
    differing = [
        f"{row}: {got}, expected {wanted}"
        for row, got, wanted in zip(rows, found, expected, strict=True)
        if got != wanted
    ]
    assert not differing, "\n".join(differing)
