"""Success statistics from an evaluation's trajectories, as `data_filter.sh` reads them."""

import sys
from dataclasses import replace
from unittest import mock

import pandas as pd
import pytest

from verl_cleaner.dataset import filter as data_filter
from verl_cleaner.dataset import success, synthetic
from verl_cleaner.evaluation import rollout_stats as stats
from verl_cleaner.evaluation.runner import EvaluationError
from verl_cleaner.launch import RunFailed
from verl_cleaner.records import trajectories

ATTEMPTS = 8


def trajectory(uid, source, sample, *, acc, **changes):
    values = {
        "step": 0, "uid": f"group {uid}", "rollout": sample, "output": 0, "suite": "s", "problem": uid,
        "data_uid": uid, "data_source": source, "score": 2 * acc - 1 if acc is not None else -1.0, "acc": acc,
    }  # fmt: skip
    return trajectories.Trajectory(**values | changes)


@pytest.fixture
def folder(tmp_path):
    """20 rows; row i was solved i % 9 times of 8, in chunks of five rows."""
    rows = list(synthetic.training_rows(20, seed=0))
    pd.DataFrame(rows).to_parquet(tmp_path / "data.parquet")
    for start in range(0, 20, 5):
        chunk = [
            trajectory(str(i), rows[i]["data_source"], sample, acc=float(sample < i % 9))
            for i in range(start, start + 5)
            for sample in reversed(range(ATTEMPTS))
        ]
        trajectories.write_next(tmp_path / "plain/trajectories", chunk)
    return tmp_path


def main(folder, *more, dataset="data.parquet"):
    arguments = ["--dataset", folder / dataset, "--evaluation", folder, "--out", folder / "s.jsonl"]
    return stats.main([*map(str, arguments), *map(str, more)])


def test_a_line_a_row_that_the_filter_reads(folder, capsys):
    assert main(folder) == 0
    found = success.read(folder / "s.jsonl")
    assert list(found) == [str(i) for i in range(20)]
    for i, s in enumerate(found.values()):
        solved = i % 9
        assert (s.successes, s.attempts, s.success_rate) == (solved, 8, solved / 8)
        assert s.avg_score == pytest.approx(2 * solved / 8 - 1)
        assert s.keep == (0 < solved < 8)
    shown = capsys.readouterr().out
    assert "20 rows, 15 of them neither always nor never solved" in shown
    assert shown.splitlines()[1].split() == ["rows", "3", "3", "2", "2", "2", "2", "2", "2", "2"]
    arguments = ["f", "--dataset", folder / "data.parquet", "--stats", folder / "s.jsonl", "--output_dir", folder]
    with mock.patch.object(sys, "argv", list(map(str, arguments))):
        assert data_filter.main() == 0
    kept = set(pd.read_parquet(folder / "filtered_sr.parquet").success_rate)
    assert {i / 8 for i in range(3, 8)} <= kept <= {i / 8 for i in range(1, 8)}


def test_an_unfinished_evaluation_gives_the_rows_that_are_complete(folder, capsys):
    last = folder / "plain/trajectories/3.parquet"
    trajectories.write(last, trajectories.read(last)[:-3])
    (folder / "plain/trajectories/4.parquet.partial").write_text("{")
    assert main(folder) == 0
    assert list(success.read(folder / "s.jsonl")) == [str(i) for i in range(19)]
    assert "1 rows do not have 8 attempts yet and are left out" in capsys.readouterr().out


def test_the_first_attempts_count(folder):
    assert main(folder, "--attempts", "4") == 0
    found = success.read(folder / "s.jsonl")
    assert [s.successes for s in found.values()] == [min(4, i % 9) for i in range(20)]


def test_a_sample_that_was_run_again_counts_once(folder):
    source = pd.read_parquet(folder / "data.parquet").data_source[3]
    trajectories.write_next(
        folder / "plain/trajectories", [trajectory("3", source, sample, acc=1.0) for sample in range(8)]
    )
    assert main(folder) == 0
    assert success.read(folder / "s.jsonl")["3"].attempts == 8


def test_nothing_was_rolled_out_yet(folder, capsys):
    for path in (folder / "plain/trajectories").iterdir():
        path.unlink()
    assert main(folder) == 0
    assert "0 rows, 0 of them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_uid": "77"}, "holds trajectories of another data set: uid '77' is of"),
        ({"data_uid": "77"}, "in the data set it is not there"),
        ({"data_source": "AIME2024"}, "uid '0' is of AIME2024, in the data set it is of"),
        ({"acc": None}, "the reward of uid '0' has no acc; score with REWARD_PATH=pkg://verl_cleaner.reward.router"),
    ],
)
def test_what_does_not_belong_together_is_refused(folder, capsys, changes, message):
    source = pd.read_parquet(folder / "data.parquet").data_source[0]
    odd = replace(trajectory("0", source, 9, acc=1.0), **changes)
    trajectories.write_next(folder / "plain/trajectories", [odd])
    assert main(folder) == 1
    assert message in capsys.readouterr().err
    assert not (folder / "s.jsonl").exists()


def test_a_broken_file_and_data_set_are_named(folder, capsys):
    (folder / "plain/trajectories/4.parquet").write_text("PAR1")
    assert main(folder) == 1
    assert "4.parquet is no whole Parquet file" in capsys.readouterr().err
    assert main(folder, dataset="no.parquet") == 1
    assert "no.parquet does not exist" in capsys.readouterr().err


# ---- with a rollout --------------------------------------------------------------------------------------------------


def rolled_out(folder, monkeypatch, effect, *more):
    seen = []

    def run(evaluation):
        seen.append(evaluation)
        if isinstance(effect, BaseException):
            raise effect

    monkeypatch.setattr(stats, "run", run)
    return main(folder, "--model", "m", *more), seen[0]


def test_the_rollout_is_an_evaluation_over_the_data_set(folder, monkeypatch):
    status, evaluation = rolled_out(
        folder, monkeypatch, None, "--chunk", 5, "--limit", 9, "--no_tools", "a.b=1", "+c=2"
    )
    assert status == 0
    assert (evaluation.model, evaluation.suites, evaluation.out) == ("m", (str(folder / "data.parquet"),), folder)
    assert (evaluation.samples, evaluation.rollback, evaluation.chunk, evaluation.limit) == (8, ("plain",), 5, 9)
    assert not evaluation.accuracy_only, "avg_score is the score of training"
    assert (evaluation.tools, evaluation.config, evaluation.overrides) == (False, "cleaner", ("a.b=1", "+c=2"))


@pytest.mark.parametrize(
    ("effect", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command goes on"),
        (RunFailed("the engine died"), 1, "error: the engine died"),
        (EvaluationError("3 of 20 problems were lost"), 1, "error: 3 of 20 problems were lost"),
        (ValueError("row 3 is broken"), 1, "error: row 3 is broken"),
    ],
)
def test_what_is_complete_is_written_however_the_rollout_ends(folder, monkeypatch, capsys, effect, status, message):
    assert rolled_out(folder, monkeypatch, effect)[0] == status
    assert message in capsys.readouterr().err
    assert len(success.read(folder / "s.jsonl")) == 20


def test_rollouts_with_rollback_are_read_from_their_own_folder(folder, monkeypatch):
    (folder / "plain").rename(folder / "rollback")
    status, evaluation = rolled_out(folder, monkeypatch, None, "--rollback")
    assert (status, evaluation.rollback) == (0, ("rollback",))
    assert len(success.read(folder / "s.jsonl")) == 20


def test_unknown_arguments_are_named(folder, capsys):
    with pytest.raises(SystemExit):
        main(folder, "--steps=3")
    assert "unknown argument '--steps=3'" in capsys.readouterr().err
