"""The reasoning-gym reward, on tasks that reasoning-gym makes."""

import json

import pytest
import reasoning_gym

from verl_cleaner.reward.reasoning_gym import compute_score


@pytest.fixture(scope="module")
def task():
    entry = reasoning_gym.create_dataset("gcd", size=1, seed=3)[0]
    return {"data_source": "reasoning_gym/gcd", "ground_truth": entry["answer"]}, entry


def score(task, solution):
    row, entry = task
    return compute_score(**row, solution_str=solution, extra_info={"entry": json.dumps(entry, default=str)})


def test_right_and_wrong(task):
    answer = task[1]["answer"]
    assert score(task, f"so it is \\boxed{{{answer}}}.") == {"score": 1.0, "acc": 1.0, "pred": answer}
    assert score(task, f"\\boxed{{ {answer} }}")["acc"] == 1.0
    assert score(task, f"\\boxed{{{int(answer) + 1}}}")["score"] == 0.0


def test_the_last_box_counts(task):
    answer = task[1]["answer"]
    assert score(task, f"\\boxed{{0}} no, \\boxed{{{answer}}}")["acc"] == 1.0
    assert score(task, f"\\boxed{{{answer}}} no, \\boxed{{0}}")["acc"] == 0.0


@pytest.mark.parametrize("solution", ["", "the answer is {}", "\\boxed{{}}", "\\boxed{{{}"])
def test_no_boxed_answer_is_wrong(task, solution):
    assert score(task, solution.format(task[1]["answer"])) == {"score": 0.0, "acc": 0.0, "pred": ""}


def test_a_box_that_the_tool_printed_is_no_answer(task):
    printed = f"<tool_response>\n\\boxed{{{task[1]['answer']}}}\n</tool_response>"
    assert score(task, printed)["acc"] == 0.0
    assert score(task, f"{printed} \\boxed{{{task[1]['answer']}}}")["acc"] == 1.0


def test_near_is_not_right():
    """Families give partial credit for the form; only a full score is an accurate answer."""
    entry = reasoning_gym.create_dataset("fraction_simplification", size=1, seed=3)[0]
    row = {"data_source": "reasoning_gym/fraction_simplification", "ground_truth": entry["answer"]}
    assert score((row, entry), "\\boxed{something else}")["score"] == 0.0
