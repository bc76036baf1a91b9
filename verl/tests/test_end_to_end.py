"""The whole system on CPU: VeRL's trainer, Ray, TransferQueue, FSDP2, our rollout server; the policy is random."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_dataset, tiny_model

from verl_cleaner.report.panels import PANELS

pytestmark = pytest.mark.end_to_end(1)

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory, judge):
    """Validation, one step that loses a group of ten, one that loses two of ten."""
    folder = tmp_path_factory.mktemp("run")
    tiny_model(folder / "model")
    tiny_dataset(folder / "train.parquet", rows=20)
    tiny_dataset(folder / "val.parquet", rows=10)
    (folder / "loops.yaml").write_text("- name: flaky\n  _target_: flaky_loop.FlakyLoop\n")
    metrics = folder / "metrics.jsonl"
    command = [sys.executable, "-m", "verl_cleaner.main_ppo", "--config-name", "cleaner_cpu"]
    command += [
        f"hydra.run.dir={folder / 'hydra'}",
        f"actor_rollout_ref.model.path={folder / 'model'}",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'val.parquet'}",
        "data.shuffle=False",
        "data.train_batch_size=10",
        "data.max_prompt_length=100",
        "data.max_response_length=24",
        "algorithm.adv_estimator=grpo",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.rollout.calculate_log_probs=False",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=10",
        "+actor_rollout_ref.rollout.multi_turn.enable_tool_rollback=True",
        "+actor_rollout_ref.rollout.multi_turn.save_negative_samples=True",
        "+algorithm.use_dpo_on_tool_calls=True",
        "actor_rollout_ref.rollout.agent.default_agent_loop=flaky",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={folder / 'loops.yaml'}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=5",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=10",
        f"reward.custom_reward_function.path={TESTS / 'flaky_loop.py'}",
        "reward.custom_reward_function.name=reward",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=True",
        "trainer.logger=[console,file]",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        "trainer.resume_mode=disable",
    ]
    environment = os.environ | {
        "PYTHONPATH": str(TESTS),
        "CODE_JUDGE_URL": judge,
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "OMP_NUM_THREADS": "1",
        "VERL_PLATFORM": "cpu",
    }
    process = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, cwd=folder)
    (folder / "log").write_text(process.stdout + process.stderr)
    assert metrics.exists(), process.stdout[-4000:] + process.stderr[-4000:]
    steps = {line["step"]: line["data"] for line in map(json.loads, metrics.read_text().splitlines())}
    return process, steps


def test_a_lost_group_is_dropped_and_the_step_trains(run):
    _, steps = run
    step = steps[1]
    assert step["infrastructure/lost_groups"] == 1
    assert step["infrastructure/lost_trajectories"] == 1
    assert step["grpo/num_positive_samples"] == 18
    assert step["actor/grad_norm"] > 0
    assert step["tool_calls/total_attempts"] >= 0


def test_one_pair_of_each_group_that_is_left_is_trained_on(run):
    """VeRL's padding for the lost group copies a trajectory with its pair."""
    _, steps = run
    step = steps[1]
    assert step["grpo/num_negative_samples"] == 9
    assert step["grpo/total_samples"] == 27
    assert step["grpo/negative_ratio"] == pytest.approx(1 / 3)
    assert 0 < step["dpo/gradient_share"] <= 0.1 + 1e-6
    assert step["dpo/loss"] > 0
    assert not any("dpo" in key or "negative" in key for key in steps[0])


def test_at_validation_a_lost_group_is_no_wrong_answer(run):
    _, steps = run
    validation = steps[0]
    assert validation["val-aux/infrastructure/lost_groups"] == 1
    assert validation["val-core/tiny/acc/mean@1"] == 1


def test_too_many_lost_groups_stop_the_run_before_the_update(run):
    process, steps = run
    assert process.returncode == 1
    assert "error: step 2: 2 of 10 groups were lost, 2 to outages" in process.stderr
    assert "Cause: the judge is on holiday" in process.stderr
    # Ray brings the workers' lines whenever it likes.
    own = [line for line in process.stderr.splitlines() if " pid=" not in line]
    assert "Traceback" not in "\n".join(own).rsplit("error:", 1)[1]
    assert 2 not in steps


def test_the_panels_metrics_of_a_validation_are_logged(run):
    _, steps = run
    lines = [line for panel in PANELS for line in panel.lines if line.metric.startswith("val-")]
    assert len(lines) == 3
    for line in lines:
        assert line.read(steps[0]) is not None, line.metric
        assert any(re.fullmatch(line.pattern, name) for name in steps[0]), line.metric
