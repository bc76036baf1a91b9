"""Leaves in the whole system on CPU: VeRL's trainer, Ray, TransferQueue, FSDP2; scores and leaves are given."""

import re
import statistics

import pandas
import pytest
from leafy_loop import FAILED, FAILED_SPAN, LEAVES, SCORES
from tiny_training import train

from verl_cleaner.report.panels import PANELS, PHASES

pytestmark = pytest.mark.end_to_end(2)

TURNS = "+actor_rollout_ref.rollout.multi_turn"
LOW, PENALTY = -1.0, 0.5


def grpo(score, group):
    return (score - statistics.mean(group)) / (statistics.stdev(group) + 1e-6)


def rloo(score, group):
    """Against the mean of the others."""
    return (score - statistics.mean(group)) * len(group) / (len(group) - 1)


BYPASS = ("algorithm.rollout_correction.bypass_mode=True", "actor_rollout_ref.actor.policy_loss.loss_mode=bypass_mode")
RUNS = {
    "grpo, KL, importance weights": (
        grpo,
        True,
        ["algorithm.rollout_correction.rollout_is=token", "actor_rollout_ref.actor.use_kl_loss=True"],
    ),
    "grpo, full weight": (grpo, False, [f"{TURNS}.rollback_failed_call_weight=full"]),
    "rloo, bypass, dynamic batches": (
        rloo,
        True,
        [
            *BYPASS,
            "+actor_rollout_ref.actor.policy_loss.rollout_correction=${algorithm.rollout_correction}",
            "algorithm.adv_estimator=rloo",
            "actor_rollout_ref.model.use_remove_padding=True",
            "actor_rollout_ref.actor.use_dynamic_bsz=True",
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=400",
            "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=400",
        ],
    ),
}
"""Name: the estimator, whether the leaves of a trajectory split one weight, and the run's overrides."""


@pytest.fixture(scope="module", params=list(RUNS))
def run(tmp_path_factory, judge, request):
    """Two steps of two mini-batches with one lost group: (folder, metrics by step, estimator, split)."""
    estimator, split, further = RUNS[request.param]
    folder = tmp_path_factory.mktemp("run")
    overrides = [
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.calculate_log_probs=True",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
        f"{TURNS}.enable_tool_rollback=True",
        f"{TURNS}.rollback_failed_calls=leaf",
        f"{TURNS}.rollback_logprobs=rescore",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        f"+algorithm.failed_call_penalty={PENALTY}",
        f"+reward.custom_reward_function.reward_kwargs.low={LOW}",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        "trainer.dump_tokens=True",
        *further,
    ]
    process, steps = train(folder, judge, "leafy", overrides)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-6000:]
    return folder, steps, estimator, split


@pytest.fixture(scope="module")
def steps(run):
    return run[1]


def leaves_of(digit):
    """How many each trajectory of the group has that has any."""
    return [count for (of, _), count in LEAVES.items() if of == digit]


def group_with_leaves(digit, split):
    """Scores of all members. Where leaves split one weight, those of a trajectory count once."""
    leaves = leaves_of(digit)
    return [*SCORES[digit], *[LOW] * (len(leaves) if split else sum(leaves))]


def trajectories(folder):
    """Of the first step, with their group's digit."""
    rows = pandas.read_parquet(folder / "rollouts" / "trajectories" / "1.parquet").to_dict("records")
    for row in rows:
        row["digit"] = int(re.search(r"say (\d+)", row["prompt"])[1]) % 10
        row["score"] = SCORES[row["digit"]][row["rollout"]]
    assert len(rows) == 36
    return rows


def test_the_leaves_of_real_groups_are_counted(steps):
    step = steps[1]
    assert step["infrastructure/lost_groups"] == 1
    assert step["leaves/count"] == sum(LEAVES.values()) == 5
    assert step["leaves/per_group"] == 5 / 9
    assert step["leaves/tokens"] == 4 * 4 + 8
    # The second leaf of a trajectory begins one token later.
    assert step["leaves/sequence_tokens"] == 5 * step["prompt_length/mean"] + step["leaves/tokens"] + 1
    assert 0 < step["leaves/token_share"] < step["leaves/gradient_share"] < 1


def test_their_advantage_is_that_of_members_with_the_score_of_a_wrong_answer(run):
    _, steps, estimator, split = run
    advantages = []
    for digit in SCORES:
        whole = estimator(LOW, group_with_leaves(digit, split))
        for count in leaves_of(digit):
            advantages += [whole / count if split else whole] * count
    assert steps[1]["leaves/advantage_mean"] == pytest.approx(statistics.mean(advantages), rel=1e-5)


def test_groups_of_one_score_are_saved(steps):
    """Groups 0 and 3 have one score; the metric of dead groups goes on to say so."""
    assert steps[1]["leaves/saved_groups"] == 2


def test_statistics_of_groups_are_those_of_real_trajectories(steps):
    step, scores = steps[1], [score for group in SCORES.values() for score in group]
    assert step["critic/score/mean"] == pytest.approx(statistics.mean(scores))
    assert step["critic/score/min"] == 0
    assert step["grpo/total_samples"] == 36
    assert step["critic/score/acc"] == pytest.approx(statistics.mean(scores))
    assert step["grpo/zero_variance_groups"] == pytest.approx(2 / 9)


def test_members_advantages_are_those_of_the_group_with_leaves(run):
    folder, _, estimator, split = run
    for row in trajectories(folder):
        together = group_with_leaves(row["digit"], split)
        expected = estimator(row["score"], together)
        charged = range(*FAILED_SPAN) if (row["digit"], row["rollout"]) == FAILED else ()
        for number, (mask, advantage) in enumerate(zip(row["mask"], row["advantages"], strict=True)):
            lowered = PENALTY if number in charged else 0
            assert advantage == pytest.approx(mask * (expected - lowered), abs=1e-5)


def test_failed_calls_that_stand_are_charged(steps):
    assert steps[1]["failed_call_penalty/tokens"] == FAILED_SPAN[1] - FAILED_SPAN[0]


def test_they_are_trained_on(steps):
    for step in steps.values():
        assert step["actor/grad_norm"] > 0
        assert "leaves/kl" in step
        assert 0 <= step["leaves/clipfrac"] <= 1
        assert not any("leaf" in key for key in step)


def test_the_panels_metrics_are_logged(steps):
    """Those of training; test_end_to_end.py has those of a validation."""
    logged = {name for metrics in steps.values() for name in metrics}
    lines = [line for panel in PANELS for line in panel.lines]
    names = {name for line in lines for name in (line.metric, line.low, line.high) if name}
    # This loop overwrites nothing (test_dashboards.py has these); a run may have no reference, or skip the log-probs.
    overwritten = {"rollback/gap/mean", "rollback/gap/p05", "rollback/gap/p95", "actor/overwritten_kl"}
    absent = {name for name in names - logged - overwritten if not name.startswith(("val-", "with_rollback/"))}
    assert absent <= {"actor/kl_loss", "actor/entropy"}
    for panel in PANELS:
        if panel.parts:
            assert any(re.fullmatch(panel.parts.pattern, name) for name in logged), panel.title
    phases = {name.removeprefix("timing_s/") for name in logged if re.fullmatch(r"timing_s/[a-z_]+", name)}
    assert phases - set(PHASES) <= {"step", "testing", "save_checkpoint", "start_profile", "stop_profile"}
