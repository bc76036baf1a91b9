"""Training with rollout servers of their own, in the whole system on CPU; scores and leaves are given (`leafy_loop`).

Two updates a step, the second one with old log-probs of the weights before the first; leaves and importance weights.
"""

import re
from collections import Counter

import pandas
import pytest
from leafy_loop import LEAVES, LOST, SCORES
from tiny_training import train

pytestmark = pytest.mark.end_to_end(1)

TURNS = "+actor_rollout_ref.rollout.multi_turn"


@pytest.fixture(scope="module")
def run(tmp_path_factory, judge):
    """(metrics by step, trajectories by step, each with the digit of its group)"""
    folder = tmp_path_factory.mktemp("run")
    overrides = [
        "trainer.v1.trainer_mode=cleaner_separate_async",
        "trainer.v1.separate_async.parameter_sync_step=2",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=cpu",
        "ray_kwargs.ray_init.num_gpus=2",
        "algorithm.rollout_correction.rollout_is=token",
        "actor_rollout_ref.actor.use_kl_loss=False",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.calculate_log_probs=True",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
        f"{TURNS}.enable_tool_rollback=True",
        f"{TURNS}.rollback_failed_calls=leaf",
        f"{TURNS}.rollback_logprobs=rescore",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "+reward.custom_reward_function.reward_kwargs.low=-1.0",
        # Of each batch of ten one group is lost and replaced.
        "trainer.max_lost_share=0.5",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        "trainer.dump_tokens=True",
    ]
    process, steps = train(folder, judge, "leafy", overrides)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-6000:]
    dumped = {}
    for step in steps:
        rows = pandas.read_parquet(folder / "rollouts" / "trajectories" / f"{step}.parquet")
        rows["digit"] = [int(re.search(r"say (\d+)", prompt)[1]) % 10 for prompt in rows["prompt"]]
        dumped[step] = rows
    return steps, dumped


def test_groups_are_complete_and_lost_ones_replaced(run):
    steps, dumped = run
    assert list(steps) == [1, 2]
    for rows in dumped.values():
        assert len(rows) == 40
        assert LOST not in set(rows["digit"])
        for (_, digit), group in rows.groupby(["uid", "digit"]):
            scores = dict(zip(group["rollout"], group["acc"], strict=True))
            assert [scores[i] for i in range(4)] == SCORES[digit]
    assert sum(step["infrastructure/lost_groups"] for step in steps.values()) >= 1


def test_leaves_of_both_updates_are_trained_on(run):
    steps, dumped = run
    for step, metrics in steps.items():
        groups = Counter(digit for (_, digit), _ in dumped[step].groupby(["uid", "digit"]))
        leaves = sum(count * groups[digit] for (digit, _), count in LEAVES.items())
        # A mean over the updates.
        assert metrics["leaves/count"] * 2 == leaves
        assert metrics["actor/grad_norm"] > 0


def test_the_second_step_trains_on_tokens_of_older_weights(run):
    steps, _ = run
    assert steps[1]["training/off_policy/trajectory_staleness/max"] == 0
    assert steps[2]["training/off_policy/trajectory_staleness/max"] == 1
    # In both updates of the first step the old log-probs are those of the weights that sampled.
    assert steps[1]["training/rollout_probs_diff_max"] < 1e-4
    assert steps[2]["training/rollout_probs_diff_max"] > 1e-4
