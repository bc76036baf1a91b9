"""The quickstart's lines, table, curves and its choice of a repaired turn. All of it fits 80 columns."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest

from cleaner_lab.nano import quickstart, seeds
from cleaner_lab.nano.arms import BASELINE, CLEANER, LEAVES_HALF, Outcome
from cleaner_lab.nano.curves import family_accuracies, held_out_accuracy, plot
from cleaner_lab.nano.progress import LEGEND, WIDTH, Log, opening, step_line
from cleaner_lab.nano.repair import first_repair, repair_lines
from cleaner_lab.nano.summary import HEADER, table
from cleaner_lab.nano.tasks import UNSEEN
from verl_cleaner.records import rollbacks
from verl_cleaner.records.metrics import WITH_ROLLBACK
from verl_cleaner.report.tables import format_table
from verl_cleaner.saar.config import RollbackConfig

SIZES = {"gcd": 30, "lcm": 10, UNSEEN: 10}


def validated(gcd, lcm, unseen, failures=0.5):
    accuracies = {"gcd": gcd, "lcm": lcm, UNSEEN: unseen}
    return {
        **{f"val-core/reasoning_gym/{family}/acc/mean@1": value for family, value in accuracies.items()},
        "val-aux/reasoning_gym/gcd/score/mean@1": 0.99,
        "val-aux/tool_calls/failures_per_trajectory": failures,
        "val-aux/tool_calls/first_attempt_success_rate": 1 - failures,
    }


def helped(gcd, lcm, unseen):
    return {f"{WITH_ROLLBACK}{key}": value for key, value in validated(gcd, lcm, unseen).items()}


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
    assert step_line(0, validated(0.4, 0.2, 0.1), total=24) == (
        "  step   0/24  held-out accuracy 0.300 of the policy alone"
    )
    line = step_line(3, TRAINING | ROLLBACK, total=24)
    assert line == "  step   3/24  accuracy 0.62  failed calls 0.50 → 0.04  repaired 84/90  5.2 s"
    assert step_line(3, TRAINING, total=24) == "  step   3/24  accuracy 0.62  failed calls 0.50  5.2 s"
    both = step_line(24, TRAINING | ROLLBACK | validated(0.4, 0.2, 0.1) | helped(0.8, 0.6, 0.5), total=24)
    assert both.splitlines()[1:] == ["  step  24/24  held-out accuracy 0.300 of the policy alone, 0.700 with rollback"]


@pytest.mark.parametrize(
    ("arms", "steps", "minutes"),
    [((CLEANER,), 24, "about 4 minutes"), ((BASELINE, CLEANER, LEAVES_HALF), 2, "minutes")],
)
def test_it_opens_with_one_sentence(arms, steps, minutes):
    text = opening(steps, arms, fresh=True)
    assert "from scratch" in text
    assert f"in {steps} steps of RL" in " ".join(text.split())
    assert minutes in " ".join(opening(steps, arms, fresh=False).split())
    assert max(map(len, [*text.splitlines(), *LEGEND.splitlines()])) <= WIDTH


def test_it_is_never_silent_for_ten_seconds(tmp_path, monkeypatch, capsys):
    now = [0.0]
    printed = []

    class Slow:
        """Two steps, 100 s apart, looked for every 0.2 s."""

        def __init__(self, folder, overrides):
            self.log = folder / "train.log"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def steps(self):
            for step in range(2):
                for _ in range(500):
                    now[0] += 0.2
                    yield None
                    if capsys.readouterr().out:
                        printed.append(now[0])
                yield step, TRAINING | ROLLBACK

    monkeypatch.setattr(quickstart, "Run", Slow)
    monkeypatch.setattr(quickstart.time, "monotonic", lambda: now[0])
    options = SimpleNamespace(seed=0, steps=2)
    result = quickstart.train(CLEANER, tmp_path, tmp_path, options, [])
    assert [step for step, _ in result.steps] == [0, 1]
    gaps = [later - earlier for earlier, later in pairwise([0.0, *printed, now[0]])]
    assert 15 < len(gaps) < 40
    assert max(gaps) < 10


def test_the_log_tells_what_goes_on(tmp_path):
    path = tmp_path / "train.log"
    log = Log(path)
    assert log.phase() == "starting Ray"
    with path.open("a") as file:
        for text, phase in (
            ("Started a local Ray inst", "starting Ray"),
            ("ance.\n", "starting the trainer and the rollout server"),
            ("noise\nINFO: all initialize finished, ready to fit\n", "measuring the policy on held-out tasks"),
            ("Started a local Ray instance.\n", "measuring the policy on held-out tasks"),
            ("Training Progress:   0%|", "training"),
        ):
            file.write(text)
            file.flush()
            assert log.phase() == phase


def test_the_table_has_a_row_for_before_and_one_per_run(tmp_path):
    outcomes = [
        outcome(BASELINE, tmp_path, validated(0.6, 0.6, 0.2) | helped(0.9, 0.9, 0.9)),
        outcome(CLEANER, tmp_path, validated(0.8, 0.8, 0.3, failures=0.1)),
    ]
    rows = table(outcomes, SIZES)
    assert rows == [
        # 40 tasks: 30 × 0.4 + 10 × 0.2 right, sqrt(0.35 × 0.65 / 40)
        ["before training", "0.350 ± 0.075", "–", "0.100 ± 0.095", "0.500"],
        ["baseline, step 2", "0.600 ± 0.077", "0.900 ± 0.047", "0.200 ± 0.126", "0.500"],
        ["cleaner, step 2", "0.800 ± 0.063", "–", "0.300 ± 0.145", "0.100"],
    ]
    assert max(map(len, format_table([HEADER, *rows]).splitlines())) <= WIDTH


def test_a_run_that_was_validated_late_or_never_has_a_table_of_what_there_is(tmp_path):
    late = Outcome(CLEANER, tmp_path, [(1, TRAINING), (2, TRAINING | validated(0.8, 0.8, 0.3))], 1.0)
    never = Outcome(BASELINE, tmp_path, [(1, TRAINING)], 1.0)
    at_the_start = Outcome(BASELINE, tmp_path, [(0, validated(0.4, 0.4, 0.4)), (1, TRAINING)], 1.0)
    assert [row[0] for row in table([never, late], SIZES)] == ["cleaner, step 2"]
    assert [row[0] for row in table([at_the_start], SIZES)] == ["before training"]
    assert table([never], SIZES) == []


def repair_row(rollout, retry, *, result="overwritten", kind="NameError", similarity=0.9, **columns):
    row = {"uid": "a", "rollout": rollout, "turn": 1, "retry": retry, "result": result, "kinds": [kind]}
    return row | {"similarity": similarity} | columns


def test_first_repair_is_one_that_worked_at_once():
    rows = [
        *(repair_row(0, 1), repair_row(0, 2), repair_row(1, 1, result="no_call")),
        *(repair_row(2, 1, kind="malformed_call"), repair_row(3, 1), repair_row(4, 1, similarity=0.95)),
    ]
    assert first_repair(rows) == rows[5]
    assert first_repair(rows[:5]) == rows[4]
    assert first_repair(rows[:4]) == rows[3]
    assert first_repair(rows[:3]) is None


def test_a_repair_is_shown_as_the_change_of_a_program(tmp_path):
    record = {
        "retries": [
            {
                **{"turn": 1, "kinds": ["AttributeError"], "result": "overwritten", "strategy": "tool_call_only"},
                **{
                    "similarity": 0.9,
                    "span": (3, 9),
                    "malformed": "",
                    "error": "AttributeError at line 2: " + "x" * 90,
                },
                **{"failed_call": "import math\nprint(math.gdc(4, 6))", "gap": None},
                **{"new_call": "import math\nprint(math.gcd(4, 6))", "generated": 9, "discarded": 9},
                **{"seconds": 0.1},
            }
        ]
    }
    path = tmp_path / "rollouts" / "rollbacks" / "1.parquet"
    rollbacks.write(path, rollbacks.rows([("u_0_0", record)], step=1, config=RollbackConfig()))
    lines = repair_lines(tmp_path, 1)
    assert "repaired in step 1" in lines[0]
    assert max(map(len, lines)) == WIDTH
    assert lines[2:] == [
        "        import math",
        "      - print(math.gdc(4, 6))",
        "      ! AttributeError at line 2: " + "x" * 46,
        "        " + "x" * 44,
        "      + print(math.gcd(4, 6))",
    ]
    assert repair_lines(tmp_path, 2) == []


def test_seeds_in_one_table_and_figure(tmp_path, capsys, monkeypatch):
    folders = []
    for seed, accuracy in enumerate((0.6, 0.8)):
        folders.append(tmp_path / str(seed))
        for arm in (BASELINE, CLEANER, LEAVES_HALF):
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
    assert "leaves_half, step" in text
    assert figure.stat().st_size > 10_000
    (folders[0] / "cleaner" / "metrics.jsonl").write_text(json.dumps({"step": 1, "data": TRAINING}))
    with pytest.raises(SystemExit):
        seeds.main()
    assert "the run was not finished" in capsys.readouterr().err


def test_curves_of_a_run_without_training_steps(tmp_path):
    plot({"cleaner": [[(0, validated(0.4, 0.2, 0.1))]]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
