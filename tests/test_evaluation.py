"""The evaluation script as users start it, on CPU: the nano policy, and HumanEval's canonical solutions. A minute."""

import json
import signal

import pandas as pd
import pytest
from quickstart_runs import REPOSITORY, Recipe

from cleaner_lab.nano.shipped import FOLDER as NANO
from verl_cleaner.dataset.lengths import TOOL_CONFIG
from verl_cleaner.evaluation.runner import problem_of
from verl_cleaner.records.trajectories import read_folder

pytestmark = pytest.mark.end_to_end(3)

TASKS = 82
"""Of the held-out ones, which are in random order."""


class Evaluation(Recipe):
    def __init__(self, *arguments, **knobs):
        super().__init__("eval/eval.sh", *map(str, arguments), **{"PYTHONPATH": str(REPOSITORY / "tests")} | knobs)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Interrupted after the first chunk of 82 problems, then gone on with: HumanEval's are two, the tasks the third."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    held_out = out.with_name("held_out.parquet")
    pd.read_parquet(NANO / "data/val.parquet").head(TASKS).to_parquet(held_out)
    loops = out.with_name("loops.yaml")
    loops.write_text("- name: canonical\n  _target_: canonical_loop.CanonicalLoop\n")
    agent = "actor_rollout_ref.rollout.agent"
    overrides = [f"{agent}.default_agent_loop=canonical", f"{agent}.agent_loop_config_path={loops}"]
    # A loop of one's own gets the tools that are named, and no others.
    overrides.append(f"actor_rollout_ref.rollout.multi_turn.tool_config_path={TOOL_CONFIG}")
    arguments = [NANO / "model", "humaneval", held_out, *overrides]
    knobs = {"ROLLOUT": "cpu", "VAL_SAVE_PATH": str(out), "SAMPLES": "2", "CHUNK": "82"}
    knobs |= {"ROLLBACK": "both", "MAX_EXECUTION_TIME": "20"}
    first = Evaluation(*arguments, **knobs)
    first.until("1 of 3 chunks")
    first.process.send_signal(signal.SIGINT)
    assert first.finish() != 0
    assert not first.left()
    second = Evaluation(*arguments, **knobs)
    assert second.finish() == 0, second.text + (out / "plain" / "train.log").read_text()[-3000:]
    return out, first.text, second.text, (arguments, knobs)


def test_it_goes_on_after_an_interruption(evaluated):
    out, first, second, _ = evaluated
    assert "stopped; the same command goes on with what is left" in first
    assert "Traceback" not in first
    assert any(f"rollback: {done} of {164 + TASKS} problems are done already" in second for done in (82, 164))
    for arm in ("rollback", "plain"):
        found = list(read_folder(out / arm / "trajectories"))
        assert len(found) == len({(problem_of(t), t.rollout) for t in found}) == (164 + TASKS) * 2


def test_human_evals_canonical_solutions_are_all_right(evaluated):
    out, _, text, _ = evaluated
    report = json.loads((out / "report.json").read_text())
    suite = report["suites"]["humaneval"]
    for arm in ("rollback", "plain"):
        assert suite["arms"][arm]["problems"] == 164
        assert suite["arms"][arm]["mean"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        samples = [json.loads(line) for line in (out / arm / "humaneval.jsonl").read_text().splitlines()]
        assert len(samples) == 328
        assert len({sample["task_id"] for sample in samples}) == 164
    assert f"# Evaluation of {NANO}/model" in text


def test_the_nano_policy_fails_less_with_rollback(evaluated):
    out = evaluated[0]
    report = json.loads((out / "report.json").read_text())
    suite = report["suites"][str(out.with_name("held_out.parquet"))]
    rollback, plain = suite["arms"]["rollback"], suite["arms"]["plain"]
    assert (rollback["problems"], rollback["samples"]) == (TASKS, 2)
    assert 0.2 < plain["mean"]["value"] < 0.7
    # So few tasks do not tell the arms apart for certain.
    assert suite["comparison"]["gain"]["high"] > 0
    assert (plain["rollbacks"], plain["discarded_tokens"]) == (0, 0)
    assert rollback["recovered"] > 0.1
    assert rollback["failures_left"] < plain["failures_left"] / 2
    equal = suite["comparison"]["equal_tokens"]
    assert equal["rollback"]["tokens"] == pytest.approx(equal["plain"]["tokens"])
    assert (out / "report.png").stat().st_size > 10_000


def test_other_settings_in_the_same_folder_are_refused(evaluated):
    arguments, same = evaluated[3]
    other = Evaluation(*arguments, **same | {"SAMPLES": "3"})
    assert other.finish() != 0
    assert "holds an evaluation with other settings (samples: begun with 2, now 3)" in other.text
    assert "Traceback" not in other.text


@pytest.mark.parametrize(
    ("arguments", "knobs", "message"),
    [
        ([NANO / "model", "aime"], {}, "unknown suite 'aime', expected one of aime2024, aime2025, gpqa"),
        ([NANO / "model"], {}, "expected MODEL and at least one SUITE"),
        ([NANO / "model", "aime2024", "--chunk"], {}, "unknown argument '--chunk'"),
        ([NANO / "model", "aime2024"], {"ROLLBACK": "yes"}, "ROLLBACK must be one of on off both, got yes"),
        ([NANO / "model", "aime2024"], {"SAMPLES": "0"}, "SAMPLES must be a positive whole number, got 0"),
    ],
)
def test_bad_input_is_named(tmp_path, arguments, knobs, message):
    evaluation = Evaluation(*arguments, **{"ROLLOUT": "cpu", "VAL_SAVE_PATH": str(tmp_path)} | knobs)
    assert evaluation.finish() != 0
    assert message in evaluation.text
    assert "Traceback" not in evaluation.text
