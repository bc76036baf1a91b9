"""What the page says of whole runs: what they were, the policy or the repairs, seeds, families, evaluations."""

import math
import re
import sys
from dataclasses import replace

import pytest
from loop_harness import make_config
from omegaconf import open_dict
from report_data import write_evaluation, write_run, write_validation

from verl_cleaner import main_ppo
from verl_cleaner.evaluation import runner
from verl_cleaner.records import run_info, trajectories
from verl_cleaner.report import evaluations, families
from verl_cleaner.report.about import about
from verl_cleaner.report.charts import chart_data
from verl_cleaner.report.folder import find_runs
from verl_cleaner.report.grouping import groups
from verl_cleaner.report.run import Run, read_run
from verl_cleaner.report.summary import POLICY, differences, summary


def read(path):
    (folder,) = find_runs(path)
    return read_run(folder, name="run", limit=2000)


def test_what_a_run_was_started_with(tmp_path, monkeypatch):
    config = make_config()
    with open_dict(config):
        config.trainer.command = run_info.command_line(
            ["data.seed=3", "trainer.api_key=hunter2", "x.url=redis://u:p@h", "a b"]
        )
    run_info.write(tmp_path, config)
    info = run_info.read(tmp_path / run_info.FILE)
    assert info["command"] == (
        "python -m verl_cleaner.main_ppo data.seed=3 'trainer.api_key=(hidden)' 'x.url=(hidden)' 'a b'"
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", info["started"])
    assert re.fullmatch(r"(\d+ × .+, )*\d+ CPUs, \d+ GiB", info["hardware"])
    assert re.fullmatch(r"[0-9a-f]{12}\+?", info["commit"])
    # An installed package is in no repository, even where its environment is.
    monkeypatch.setattr(run_info, "__file__", str(tmp_path / "run_info.py"))
    assert run_info.commit() is None


def test_the_command_reaches_the_configuration(monkeypatch):
    """The trainer, in another process, gets the configuration."""
    seen = []
    monkeypatch.setattr(main_ppo, "make_ready", lambda config: seen.append(config.trainer.command) or sys.exit(0))
    monkeypatch.setattr(sys, "argv", ["main_ppo", "data.seed=5"])
    with pytest.raises(SystemExit):
        main_ppo.main.__wrapped__(make_config())
    assert seen == ["python -m verl_cleaner.main_ppo data.seed=5"]


def run_of(name="run", steps=(), **config):
    return Run(name, None, steps=dict(steps), config=config)


def test_about_a_run(tmp_path):
    run = read(write_run(tmp_path / "run", seed=3))
    assert about(run) == {
        "started": "2026-03-04T05:06:07+00:00",
        "model": "Qwen/Qwen3-4B",
        "seed": "3",
        "steps": "3",
        "commit": "0123456789ab",
        "hardware": "4 × NVIDIA H100 80GB HBM3, 64 CPUs, 512 GiB",
        "versions": "verl 0.9.1, torch 2.11.0",
        "command": "python -m verl_cleaner.main_ppo data.seed=3",
    }
    assert about(run_of()) == {}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run_of("a/seed0"), run_of("a/seed1"), run_of("b/seed0")], ["a (2 seeds)", "b/seed0"]),
        ([run_of("a_seed1"), run_of("a_seed2")], ["a (2 seeds)"]),
        (
            [
                run_of("x/seed0", **{"data.seed": "0", "trainer.rollout_data_dir": "/a", "algorithm.k": "1"}),
                run_of("x/seed1", **{"data.seed": "1", "trainer.rollout_data_dir": "/b", "algorithm.k": "1"}),
                run_of("y/seed1", **{"data.seed": "1", "trainer.rollout_data_dir": "/b", "algorithm.k": "2"}),
            ],
            ["x (2 seeds)", "y/seed1"],
        ),
        (
            [
                run_of("a", **{"actor_rollout_ref.model.path": "m"}),
                run_of("b", **{"actor_rollout_ref.model.path": "n"}),
            ],
            ["a", "b"],
        ),
        ([run_of("one"), run_of("two")], ["one", "two"]),
    ],
)
def test_runs_that_differ_in_their_seed_only_are_a_group(runs, expected):
    assert [group.name for group in groups(runs)] == expected
    assert sorted(number for group in groups(runs) for number in group.numbers) == list(range(len(runs)))


def logged(*values, key="critic/score/acc"):
    return {step: {key: value} for step, value in enumerate(values)}


def test_the_curve_of_a_group_is_the_mean_with_the_range():
    seeds = [run_of(steps=logged(0.2, 0.4)), run_of(steps=logged(0.4, 0.8, 0.9))]
    (chart,) = chart_data([seeds])
    assert chart["series"] == [
        {"run": 0, "label": "", "dash": "", "points": [[0, 0.3, 0.2, 0.4], [1, 0.6, 0.4, 0.8], [2, 0.9]]}
    ]
    key = "tool_calls/failure_reason/NameError"
    (stack,) = chart_data([[run_of(steps=logged(2.0, key=key)), run_of(steps=logged(4.0, key=key))]])
    assert stack["series"] == [{"run": 0, "sums": {"NameError": 3.0}, "steps": [[0, {"NameError": 3.0}]]}]


def test_differences_are_taken_where_all_runs_are_and_have_welchs_interval():
    ours = [run_of(steps=logged(0.5, value, 0.0)) for value in (0.70, 0.74, 0.78)]
    theirs = [run_of(steps=logged(0.5, value)) for value in (0.60, 0.62, 0.64)]
    found = differences([theirs, ours, [run_of(steps=logged(0.5, 0.6))]])
    assert found["step"] == 1
    ((section, title, _, better, cells, against),) = found["rows"]
    assert (section, title, better, cells) == (
        "Training, after repairs",
        "accuracy",
        1,
        [[0.62, 3], [0.74, 3], [0.6, 1]],
    )
    error = math.sqrt(0.04**2 / 3 + 0.02**2 / 3)
    # 2.94 degrees of freedom.
    assert against[0][1] == pytest.approx([0.12, 0.12 - 4.3027 * error, 0.12 + 4.3027 * error], abs=1e-4)
    assert against[1][0][0] == -0.12
    assert against[0][2] == [-0.02, None, None]
    assert differences([ours]) is None
    noise = differences([[run_of(steps=logged(0.1 + 0.2))] * 2, [run_of(steps=logged(0.3))] * 2])
    assert noise["rows"][0][5][0][1] == [0.0, 0.0, 0.0]


def test_what_is_the_policys_own():
    """Where validation rolls back, its accuracy is not the policy's own, and its failures before repairs are."""
    bare = {
        "val-core/a/acc/mean@1": 0.5, "val-aux/tool_calls/failures_per_trajectory": 0.4,
        "val-aux/tool_calls/sampled_failures_per_trajectory": 0.4,
    }  # fmt: skip
    rolled = bare | {"val-aux/rollback/global_triggered": 9.0, "val-aux/tool_calls/failures_per_trajectory": 0.0}
    for metrics, title in ((bare, POLICY), (rolled, "Held out, with rollback at test time")):
        sections = dict(summary([[run_of(steps={0: metrics})]])["sections"])
        assert ["accuracy", "%", 1, [[0.5, 0.5]]] in sections[title]
        assert ["tool failures a trajectory", "", -1, [[0.4, 0.4]]] in sections[POLICY]
    assert ["accuracy", "%", 1, [[0.5, 0.5]]] not in sections[POLICY]


def test_accuracy_by_family_has_tasks_and_intervals(tmp_path):
    folder = write_run(tmp_path / "run")
    write_validation(folder, steps=(0, 3), tasks=40)
    found = read(folder).held_out
    everything, primes, sums = families.rows([found])
    assert [row["family"] for row in (everything, primes, sums)] == ["all families", "primes", "sums"]
    assert (everything["tasks"], primes["tasks"], everything["steps"]) == (40, 20, [0, 3])
    assert sums["change"]["low"] > 0 > primes["change"]["low"]
    assert sums["last"]["low"] < sums["last"]["value"] < sums["last"]["high"]
    # Seeds: the mean of each task, not more tasks.
    again = families.rows([found, replace(found, last=found.first)])
    assert again[0]["tasks"] == 40
    assert again[0]["last"]["value"] == pytest.approx((everything["last"]["value"] + everything["first"]["value"]) / 2)
    assert families.rows([]) == []
    assert read(write_run(tmp_path / "without")).held_out is None


def test_what_repairs_add_by_family(tmp_path):
    """Of a run that repeats its last validation with rollback."""
    folder = write_run(tmp_path / "run")
    write_validation(folder, steps=(0, 3), tasks=40)
    (plain, *_) = families.rows([read(folder).held_out])
    assert (plain["helped"], plain["gain"]) == (None, None)
    repaired = [
        replace(row, acc=1.0) for row in trajectories.read(folder / "validation" / "trajectories" / "3.parquet")
    ]
    trajectories.write(folder / "validation" / "with_rollback" / "trajectories" / "3.parquet", repaired)
    everything, primes, sums = families.rows([read(folder).held_out])
    assert [row["helped"]["value"] for row in (everything, primes, sums)] == [1.0, 1.0, 1.0]
    assert everything["gain"]["value"] == pytest.approx(1 - plain["last"]["value"])
    assert primes["gain"]["low"] > 0


def test_evaluations_of_the_bare_policy_and_with_rollback(tmp_path):
    assert (evaluations.PLAIN, evaluations.ROLLBACK) == (runner.PLAIN, runner.ROLLBACK)
    write_run(tmp_path / "run")
    inside = write_evaluation(tmp_path / "run" / "evaluation")
    (row,) = evaluations.read(inside)
    assert (row["model"], row["suite"], row["problems"], row["gain"]["value"]) == ("cleaner-4b", "aime2025", 30, 0.1)
    assert (row["arms"]["plain"]["failures_left"], row["arms"]["rollback"]["failures_left"]) == (0.4, 0.0)
    assert evaluations.find([tmp_path / "run"]) == [inside]
    with pytest.raises(ValueError, match=r"report\.json is no report of an evaluation .*evaluation report"):
        evaluations.read(tmp_path)
    (inside / "report.json").write_text('{"suites": 3}')
    with pytest.raises(ValueError, match="is no report of an evaluation"):
        evaluations.read(inside)


def test_ends_are_means_over_tenths(tmp_path):
    """A training's last step is one batch; its noise is not the result."""
    accuracies = [0.0, 0.2] + [0.5] * 16 + [0.9, 0.1]
    run = run_of(steps=[(step, {"critic/score/acc": value}) for step, value in enumerate(accuracies)])
    ((_, ((_, _, _, ((first, last),)),)),) = summary([[run]])["sections"]
    assert (first, last) == (0.1, 0.5)
    short = run_of(steps=[(0, {"critic/score/acc": 0.2}), (9, {"critic/score/acc": 0.8})])
    ((_, ((_, _, _, (ends,)),)),) = summary([[short]])["sections"]
    assert ends == [0.2, 0.8]
    found = differences([[run], [short]])
    ((_, _, _, _, cells, _),) = found["rows"]
    assert found["step"] == 9
    assert cells == [[0.5, 1], [0.8, 1]]
