"""The reasoning-gym reward, on tasks that reasoning-gym makes."""

import json
import time
from pathlib import Path

import pytest
import reasoning_gym

from verl_cleaner.reward import reasoning_gym as reward
from verl_cleaner.reward.reasoning_gym import compute_score
from verl_cleaner.reward.scorer import checked, scorer


@pytest.fixture(scope="module")
def task():
    entry = reasoning_gym.create_dataset("gcd", size=1, seed=3)[0]
    return {"data_source": "reasoning_gym/gcd", "ground_truth": entry["answer"]}, entry


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left():
    yield
    reward._scorer().close()


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


def test_a_box_with_braces_is_read_whole(task):
    assert score(task, r"\boxed{\text{a}}")["pred"] == r"\text{a}"


def made(family, seed=3):
    entry = reasoning_gym.create_dataset(family, size=1, seed=seed)[0]
    return {"data_source": f"reasoning_gym/{family}", "ground_truth": entry["answer"]}, entry


# Those that evaluate the answer, and some that do not.
@pytest.mark.parametrize(
    "family",
    [
        "countdown", "puzzle24", "n_queens", "spiral_matrix", "binary_matrix", "string_insertion", "number_sorting",
        "simple_integration", "intermediate_integration", "polynomial_multiplication", "bitwise_arithmetic",
        "mini_sudoku", "prime_factorization",
    ],
)  # fmt: skip
def test_right_answers_stay_right_in_the_guarded_process(family):
    row = made(family)
    assert score(row, f"\\boxed{{{row[1]['answer']}}}")["acc"] == 1.0
    assert score(row, "\\boxed{0}")["acc"] == 0.0


@pytest.mark.parametrize("family", ["countdown", "n_queens", "spiral_matrix", "polynomial_multiplication"])
def test_no_answer_is_run(family, tmp_path):
    touched = tmp_path / "touched"
    path = "+".join(f"chr({ord(c)})" for c in str(touched))
    for answer in (
        f"__import__('os').system('touch {touched}')",
        f"open('{touched}', 'w')",
        f"open({path}, chr(119))",
        f"[open('{touched}', 'w') for _ in [1]]",
        f"sqrt('open({path}, chr(119))')",
        f"(lambda: open('{touched}', 'w'))()",
    ):
        assert score(made(family), f"\\boxed{{{answer}}}")["acc"] == 0.0
    assert not touched.exists()


@pytest.mark.alone
def test_an_endless_answer_is_wrong_and_the_next_is_scored(monkeypatch):
    child = scorer(seconds=1)
    monkeypatch.setattr(reward, "_scorer", lambda: child)
    row = made("countdown")
    assert score(row, f"\\boxed{{{row[1]['answer']}}}")["acc"] == 1.0
    start = time.monotonic()
    assert score(made("spiral_matrix"), "\\boxed{9**9**9**9}")["acc"] == 0.0
    assert 0.9 < time.monotonic() - start < 3
    assert score(row, f"\\boxed{{{row[1]['answer']}}}")["acc"] == 1.0
    child.close()


@pytest.mark.parametrize(("family", "answer"), [("prime_factorization", "x"), ("boxnet", "[[1]]"), ("products", "x")])
def test_an_answer_that_the_verifier_cannot_read_is_wrong(family, answer):
    assert score(made(family), f"\\boxed{{{answer}}}") == {"score": 0.0, "acc": 0.0, "pred": answer}


def test_the_childs_environment_holds_no_secrets(monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    child = scorer()
    child.ask(["gcd", "1", {"answer": "1"}], "scored")
    try:
        assert b"secret" not in Path(f"/proc/{child._process.pid}/environ").read_bytes()
    finally:
        child.close()


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="no family 'nothing', expected one of ab, acre"):
        compute_score("reasoning_gym/nothing", "\\boxed{1}", "1", {"entry": "{}"})


@pytest.mark.parametrize("source", ["[[1, 'Q'], [2, '_']]", "2*Symbol ('x')**Integer (2)", "-(1 + 2) / 3", "sin(pi)"])
def test_expressions_pass(source):
    assert checked(source) == source


@pytest.mark.parametrize(
    "source", ["().__class__", "open('f')", "x", "sin", "[1][0]", "sin(x=1)", "f'{1}'", "(sin)(1).a", "sin(1)(2)"]
)
def test_anything_else_does_not(source):
    with pytest.raises(ValueError, match="is not part of an answer"):
        checked(source)
