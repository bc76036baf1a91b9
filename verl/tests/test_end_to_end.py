"""The whole system on CPU: VeRL's trainer, Ray, TransferQueue, FSDP2, our rollout server; the policy is random."""

import re

import pytest
from tiny import tiny_dataset
from tiny_training import train

from verl_cleaner.report.panels import PANELS

pytestmark = pytest.mark.end_to_end(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, judge):
    """Validation, one step that loses a group of ten, one that loses two of ten."""
    folder = tmp_path_factory.mktemp("run")
    tiny_dataset(folder / "val.parquet", rows=10)
    overrides = [
        f"data.val_files={folder / 'val.parquet'}",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.rollout.calculate_log_probs=False",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=10",
        "+actor_rollout_ref.rollout.multi_turn.enable_tool_rollback=True",
        "+actor_rollout_ref.rollout.multi_turn.save_negative_samples=True",
        "+algorithm.use_dpo_on_tool_calls=True",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=10",
        "trainer.val_before_train=True",
    ]
    return train(folder, judge, "flaky", overrides)


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
