"""The quickstart's lines, table, curves and its choice of a repaired turn."""

import json

import pytest

from cleaner_lab.nano import seeds
from cleaner_lab.nano.arms import BASELINE, CLEANER, Outcome
from cleaner_lab.nano.curves import family_accuracies, held_out_accuracy, plot
from cleaner_lab.nano.quickstart import step_line
from cleaner_lab.nano.summary import first_repair, table
from cleaner_lab.nano.tasks import UNSEEN
from verl_cleaner.report.tables import format_table

SIZES = {"gcd": 30, "lcm": 10, UNSEEN: 10}


def validated(gcd, lcm, unseen, failures=0.5):
    accuracies = {"gcd": gcd, "lcm": lcm, UNSEEN: unseen}
    return {
        **{f"val-core/reasoning_gym/{family}/acc/mean@1": value for family, value in accuracies.items()},
        "val-aux/reasoning_gym/gcd/score/mean@1": 0.99,
        "val-aux/tool_calls/failures_per_trajectory": failures,
        "val-aux/tool_calls/first_attempt_success_rate": 1 - failures,
    }


TRAINING = {
    "critic/score/acc": 0.625,
    "tool_calls/sampled_failures_per_trajectory": 0.5,
    "tool_calls/failures_per_trajectory": 0.04,
    "timing_s/step": 5.21,
}
ROLLBACK = {
    "rollback/global_triggered": 90.0,
    "rollback/global_recovered": 84.0,
    "rollback/global_recovery_rate": 0.93,
}


def outcome(arm, tmp_path, last):
    steps = [(0, validated(0.4, 0.2, 0.1)), (1, TRAINING | ROLLBACK), (2, TRAINING | last)]
    return Outcome(arm, tmp_path / arm.name, steps, 100.0)


def test_held_out_accuracy_leaves_the_unseen_family_out():
    assert family_accuracies(validated(0.4, 0.2, 0.1)) == {"gcd": 0.4, "lcm": 0.2, UNSEEN: 0.1}
    assert held_out_accuracy(validated(0.4, 0.2, 0.1)) == pytest.approx(0.3)
    assert held_out_accuracy(TRAINING) is None


def test_a_line_says_only_what_there_is():
    assert step_line(0, validated(0.4, 0.2, 0.1), total=24) == "  step   0/24  held-out 0.300"
    line = step_line(3, TRAINING | ROLLBACK, total=24)
    assert "accuracy 0.625" in line
    assert "0.50 sampled, 0.04 left" in line
    assert "rollbacks 90, 84 repaired" in line
    assert line.endswith("5.2 s")
    assert "rollbacks" not in step_line(3, TRAINING, total=24)


def test_the_table_has_a_column_for_before_and_one_per_run(tmp_path):
    outcomes = [
        outcome(BASELINE, tmp_path, validated(0.6, 0.6, 0.2)),
        outcome(CLEANER, tmp_path, validated(0.8, 0.8, 0.3, failures=0.1)),
    ]
    rows = table(outcomes, SIZES)
    assert rows[0] == ["", "before", "baseline, step 2", "cleaner, step 2"]
    # 40 tasks: 30 × 0.4 + 10 × 0.2 right, sqrt(0.35 × 0.65 / 40)
    assert rows[1][1:] == ["0.350 ± 0.075", "0.600 ± 0.077", "0.800 ± 0.063"]
    assert rows[2][1:] == ["0.100 ± 0.095", "0.200 ± 0.126", "0.300 ± 0.145"]
    assert rows[3][1:] == ["0.500", "0.500", "0.100"]
    widths = {len(line.rstrip()) for line in format_table(rows).splitlines()}
    assert max(widths) <= 100


def test_first_repair_is_one_that_worked_at_once():
    def row(rollout, retry, result="overwritten", kind="NameError"):
        return {"uid": "a", "rollout": rollout, "turn": 1, "retry": retry, "result": result, "kinds": [kind]}

    rows = [row(0, 1), row(0, 2), row(1, 1, "no_call"), row(2, 1, kind="malformed_call"), row(3, 1), row(4, 1)]
    assert first_repair(rows) == row(3, 1)
    assert first_repair(rows[:4]) == rows[3]
    assert first_repair(rows[:3]) is None


def test_seeds_in_one_table_and_figure(tmp_path, capsys, monkeypatch):
    folders = []
    for seed, accuracy in enumerate((0.6, 0.8)):
        folders.append(tmp_path / str(seed))
        for arm in (BASELINE, CLEANER):
            run = outcome(arm, folders[-1], validated(accuracy, accuracy, 0.5))
            run.folder.mkdir(parents=True)
            lines = (json.dumps({"step": step, "data": data}) for step, data in run.steps)
            (run.folder / "metrics.jsonl").write_text("\n".join(lines))
    figure = tmp_path / "curves.png"
    monkeypatch.setattr("sys.argv", ["seeds", *map(str, folders), "--figure", str(figure)])
    seeds.main()
    text = capsys.readouterr().out
    assert "0.700 ± 0.141" in text
    assert "0.600 0.800" in text
    assert figure.stat().st_size > 10_000
    (folders[0] / "cleaner" / "metrics.jsonl").write_text(json.dumps({"step": 1, "data": TRAINING}))
    with pytest.raises(SystemExit):
        seeds.main()
    assert "the run was not finished" in capsys.readouterr().err


def test_curves_of_a_run_without_training_steps(tmp_path):
    plot({"cleaner": [[(0, validated(0.4, 0.2, 0.1))]]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
