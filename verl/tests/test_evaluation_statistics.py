"""mean@n, pass@k, maj@k and their intervals, and the report that is made of them."""

import itertools
import json

import pyarrow.parquet
import pytest

from verl_cleaner.evaluation import report
from verl_cleaner.evaluation.runner import EvaluationError, problem_of
from verl_cleaner.evaluation.statistics import between, maj_at_k, pass_at_k, powers
from verl_cleaner.records import trajectories
from verl_cleaner.records.trajectories import Trajectory
from verl_cleaner.report.intervals import estimate


def trajectory(problem, sample, *, acc, pred="", tokens=100, suite="aime", calls=0, **more):
    values = {"data_uid": problem, "data_source": "AIME2024", "score": 2 * acc - 1, "verified": acc, "turns": 0}
    values |= {"reason": "" if acc else "wrong_answer", "response_tokens": 0, "discarded_tokens": 0, "rollbacks": 0}
    values |= {"recovered": 0, "attempts": [{"turn": 1, "kinds": [None] * calls, "seconds": [0.1] * calls}]}
    return Trajectory(
        step=0,
        uid=f"group {problem}",
        rollout=sample,
        output=0,
        suite=suite,
        problem=problem,
        acc=acc,
        pred=pred,
        sampled_tokens=tokens,
        **values | more,
    )


@pytest.mark.parametrize(("right", "samples"), [(0, 4), (1, 4), (3, 5), (4, 4), (1, 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(right, samples):
    results = [True] * right + [False] * (samples - right)
    for k in range(1, samples + 1):
        subsets = list(itertools.combinations(results, k))
        assert pass_at_k(right, samples, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    with pytest.raises(ValueError, match="k must be in"):
        pass_at_k(right, samples, samples + 1)


def test_maj_at_k():
    answers, right = ["7", "7", "3", None], [True, True, False, False]
    assert maj_at_k(answers, right, 4) == 1.0
    assert maj_at_k(answers, right, 1) == 0.5, "one sample decides; without an answer it is wrong"
    # {7,7} {7,3}×2 {7,–}×2 {3,–}: right, a draw twice, right twice, wrong
    assert maj_at_k(answers, right, 2) == pytest.approx((1 + 2 * 0.5 + 2 + 0) / 6)
    assert maj_at_k([None, ""], [False, False], 2) == 0.0
    many, seldom = ["7"] * 20 + ["3"] * 12, [True] * 20 + [False] * 12
    assert maj_at_k(many, seldom, 16, seed="a") == maj_at_k(many, seldom, 16, seed="a")
    assert 0.8 < maj_at_k(many, seldom, 16) < 1


def test_the_interval_covers_as_it_says():
    """Of 200 samples of 60 coin flips, about 95 % of the intervals hold the truth; the bootstrap is a little short."""
    import random

    rng = random.Random(0)
    hits = 0
    for seed in range(200):
        found = estimate([float(rng.random() < 0.4) for _ in range(60)], seed=seed)
        assert found.low <= found.value <= found.high
        hits += found.low <= 0.4 <= found.high
    assert 0.90 <= hits / 200 <= 0.99
    alone = estimate([0.25])
    assert (alone.value, alone.low, alone.high) == (0.25, 0.25, 0.25)
    assert str(estimate([0.5, 0.5])) == "50.0 [50.0, 50.0]"


def test_powers_and_numbers_between():
    assert [powers(n) for n in (1, 2, 10, 16)] == [[1], [1, 2], [1, 2, 4, 8, 10], [1, 2, 4, 8, 16]]
    assert between(lambda k: [float(k), 0.0], 2.25) == [2.25, 0.0]
    assert between(lambda k: [float(k)], 3.0) == [3.0]


@pytest.fixture
def evaluation(tmp_path):
    """Two problems, four samples; rollback is right more often, and a sample costs a quarter more tokens."""
    for arm, tokens, accs in (
        ("rollback", 125, ((1, 1, 1, 0), (1, 0, 0, 0))),
        ("plain", 100, ((1, 1, 0, 0), (0,) * 4)),
    ):
        found = [
            trajectory(f"p{number}", sample, acc=float(acc), pred="7" if acc else f"{sample}", tokens=tokens, calls=2)
            for number, results in enumerate(accs)
            for sample, acc in enumerate(results)
        ]
        trajectories.write_next(tmp_path / arm / "trajectories", found[:4])
        trajectories.write_next(tmp_path / arm / "trajectories", found[4:])
    (tmp_path / "settings.json").write_text('{"model": "a/model"}')
    return tmp_path


def test_the_report(evaluation):
    found = report.write(evaluation)
    assert json.loads((evaluation / "report.json").read_text()) == json.loads(json.dumps(found))
    assert (evaluation / "report.png").stat().st_size > 5_000
    suite = found["suites"]["aime"]
    rollback, plain = suite["arms"]["rollback"], suite["arms"]["plain"]
    assert (rollback["problems"], rollback["samples"], rollback["mean"]["value"]) == (2, 4, 0.5)
    assert (plain["mean"]["value"], plain["pass"][4]["value"], plain["maj"][4]["value"]) == (0.25, 0.5, 0.5)
    assert rollback["reasons"] == {"right": 4, "wrong_answer": 4}
    assert (rollback["generated_tokens"], rollback["tool_calls"]) == (125, 2)
    assert suite["problems"][1]["rollback"]["right"] == 1
    text = (evaluation / "report.md").read_text()
    assert "# Evaluation of a/model" in text
    assert "| mean@n, strict | 50.0 [25.0, 75.0] | 25.0 [0.0, 50.0] |" in text


def test_arms_are_compared_at_equal_tokens(evaluation):
    comparison = report.build(evaluation)["suites"]["aime"]["comparison"]
    assert comparison["gain"]["value"] == pytest.approx(0.25)
    assert comparison["tokens_a_problem"] == 400
    rollback, plain = comparison["equal_tokens"]["rollback"], comparison["equal_tokens"]["plain"]
    assert (plain["samples"], rollback["samples"]) == (4, 3.2)
    assert plain["tokens"] == rollback["tokens"] == 400
    # p0: 3 of 4 right; p1: 1 of 4. 3.2 samples are 3, and a fourth one time in five.
    expected = (1 + 0.8 * pass_at_k(1, 4, 3) + 0.2 * 1) / 2
    assert rollback["pass"]["value"] == pytest.approx(expected)
    assert plain["pass"]["value"] == 0.5


def test_where_one_sample_costs_more_than_the_other_arm_nothing_is_called_equal(tmp_path):
    for arm, tokens in (("rollback", 500), ("plain", 100)):
        found = [trajectory("p", sample, acc=1.0, tokens=tokens) for sample in range(4)]
        trajectories.write_next(tmp_path / arm / "trajectories", found)
    found = report.write(tmp_path)
    assert found["suites"]["aime"]["comparison"]["equal_tokens"] is None
    text = (tmp_path / "report.md").read_text()
    assert "Not comparable at equal tokens: the cheaper arm's 400 generated tokens a problem" in text
    assert "At equal generated tokens" not in text


def test_one_arm_is_not_compared(tmp_path):
    trajectories.write_next(tmp_path / "plain" / "trajectories", [trajectory("p", 0, acc=1.0, pred=None)])
    suite = report.write(tmp_path)["suites"]["aime"]
    assert suite["comparison"] is None
    assert suite["arms"]["plain"]["maj"] == {}, "programs cannot be voted on"
    with pytest.raises(EvaluationError, match="holds no trajectories"):
        report.build(tmp_path / "plain")


def test_trajectories_are_kept_whole_or_not_at_all(tmp_path):
    one = trajectory("p", 0, acc=1.0, pred="½ \ud800", response_text="a")
    trajectories.write_next(tmp_path, [one])
    trajectories.write_next(tmp_path, [trajectory("q", 0, acc=0.0)])
    (tmp_path / "2.parquet.partial").write_text("{")
    found = list(trajectories.read_folder(tmp_path))
    assert [t.problem for t in found] == ["p", "q"]
    assert (found[0].pred, found[0].response_text) == ("½ ?", "a")
    assert next(trajectories.read_folder(tmp_path, texts=False)).response_text is None
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2\.parquet is no dump of trajectories of schema version 2: got versions"):
        list(trajectories.read_folder(tmp_path))
    assert list(trajectories.read_folder(tmp_path / "none")) == []


def test_a_table_that_lacks_a_column_is_refused(tmp_path):
    trajectories.write(tmp_path / "new.parquet", [trajectory("p", 3, acc=1.0, pred="7")])
    table = pyarrow.parquet.read_table(tmp_path / "new.parquet")
    pyarrow.parquet.write_table(table.drop_columns(["pred"]), tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match=r"missing columns \['pred'\]"):
        trajectories.read(tmp_path / "cut.parquet")


def test_a_trajectory_of_a_sample():
    retry = {"turn": 1, "discarded": 12, "span": (3, 9)}
    attempts = [
        {"turn": 1, "kinds": ("NameError", None), "seconds": (0.1, 0.1)},
        {"turn": 1, "kinds": (None, None), "seconds": (0.1, 0.1)},
        {"turn": 2, "kinds": ("x",), "seconds": (0.1,)},
    ]
    record = {"sampled_tokens": 50, "attempts": attempts, "retries": [retry, retry], "recovered": 1, "failed": 1}
    record |= {"enabled": True, "eligible": True}
    reward = {"acc": 1.0, "verified": 1.0, "pred": "7", "reason": ""}
    row = {"uid": "3", "suite": "aime", "problem": "I-1", "index": 0}
    known = {"response_tokens": 40, "score": 1.0, "turns": 4}
    fields = {"reward_extra_info": reward, "rollback_record": record}
    found = trajectories.of_output("a_b_2_0", fields, step=5, data_source="AIME2024", extra_info=row, **known)
    assert (problem_of(found), found.data_uid, found.rollout) == (("aime", "I-1"), "3", 2)
    assert (found.uid, found.output, found.step, found.score, found.acc, found.turns) == ("a_b", 0, 5, 1.0, 1.0, 4)
    assert (found.response_tokens, found.sampled_tokens, found.discarded_tokens) == (40, 50, 24)
    assert (found.tool_calls, found.tool_failures, found.failures_left) == (5, 2, 1)
    assert (found.rollbacks, found.recovered, found.spans) == (2, 1, [[3, 9]])
    bare = trajectories.of_output("a_0_0", {}, step=0, data_source="AIME2024", extra_info={"index": 5}, **known)
    assert (problem_of(bare), bare.acc, bare.sampled_tokens, bare.tool_calls) == (("AIME2024", "5"), None, 40, 0)
    assert bare.attempts is None
