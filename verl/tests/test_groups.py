"""What becomes of a step that lost trajectories; fakes play VeRL's replay buffer, its workers and TransferQueue."""

import inspect
from collections import defaultdict
from dataclasses import replace

import pytest
import ray
import torch
from loop_harness import make_config
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import replay_buffer
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_cleaner.rollout import agent_loop_worker as agent_loop
from verl_cleaner.rollout.lost_trajectory import FailurePolicy, LossCause, LostTrajectory, RolloutError, check_lost
from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.outcome import InfrastructureError
from verl_cleaner.training import batch, groups, modes, step_metrics
from verl_cleaner.training.groups import CompleteGroups
from verl_cleaner.training.validation import Validation

OUTAGE = LostTrajectory("u3", LossCause.OUTAGE, "the judge is gone")
REWARD = LostTrajectory("u3", LossCause.REWARD, "Traceback ...\nKeyError: 'answer'", "KeyError")
BUG = LostTrajectory("u3", LossCause.BUG, "Traceback: KeyError")


LOSSES = [f"{name}/lost_{what}" for name in ("infrastructure", "reward") for what in ("groups", "trajectories")]


class FakeBuffer:
    """`polls` polls before ten groups of two trajectories are there; the groups `failed` have one trajectory less."""

    poll_interval = 1.0

    def __init__(self, *, polls=0, failed=()):
        self.polls = polls
        self.failed = failed
        self.failure_keys = defaultdict(set)

    def _wait_for_next_poll(self, partition_id, last_debug_time):
        return last_debug_time

    def sample(self, global_steps, partition_id, batch_size):
        for _ in range(self.polls):
            self._wait_for_next_poll(partition_id, 0.0)
        self.failure_keys[partition_id] = set(self.failed)
        keys = [f"u{group}_{i}_0" for group in range(batch_size) for i in range(2)]
        keys = [key for key in keys if key.split("_")[0] not in self.failed or key.split("_")[1] == "0"]
        tags = [{"key": key} for key in keys]
        return KVBatchMeta(partition_id=partition_id, keys=keys, tags=tags), {"other": 1}


@pytest.fixture
def cleared(monkeypatch):
    keys = []
    monkeypatch.setattr(groups.tq, "kv_clear", lambda keys, partition_id, _all=keys: _all.extend(keys))
    return keys


def losing(*lost):
    """What the workers answer, call by call."""
    answers = iter(lost)
    return lambda: next(answers, [])


def sample(buffer, take_lost, partition_id="train", batch_size=10):
    return CompleteGroups(buffer, take_lost).sample(global_steps=7, partition_id=partition_id, batch_size=batch_size)


def test_fakes_have_verls_signatures():
    for name in ("sample", "_wait_for_next_poll"):
        own, stock = (set(inspect.signature(getattr(cls, name)).parameters) for cls in (FakeBuffer, ReplayBuffer))
        assert own == stock


def test_a_complete_batch_passes_as_it_is(cleared):
    batch, metrics = sample(FakeBuffer(), losing())
    assert len(batch.keys) == 20
    assert metrics == {"other": 1} | dict.fromkeys(LOSSES, 0)
    assert cleared == []


def test_the_whole_group_is_dropped_and_counted(cleared):
    batch, metrics = sample(FakeBuffer(failed=["u3"]), losing([OUTAGE]))
    assert len(batch.keys) == 18
    assert not any(key.startswith("u3_") for key in batch.keys)
    assert [tag["key"] for tag in batch.tags] == batch.keys
    assert cleared == ["u3_0_0"]
    assert metrics["infrastructure/lost_groups"] == 1


def test_a_group_that_lost_several_trajectories_counts_once(cleared):
    _, metrics = sample(FakeBuffer(failed=["u3"]), losing([OUTAGE, OUTAGE]))
    assert metrics["infrastructure/lost_groups"] == 1
    assert metrics["infrastructure/lost_trajectories"] == 2


def test_validation_counts_under_its_own_name(cleared):
    lost = replace(OUTAGE, validate=True)
    _, metrics = sample(FakeBuffer(failed=["u3"]), losing([lost]), partition_id="val")
    assert metrics["val-aux/infrastructure/lost_groups"] == 1


def test_what_training_loses_during_a_validation_counts_for_training(cleared):
    """Asynchronous trainers sample for training while they validate."""
    buffer = CompleteGroups(FakeBuffer(), losing([OUTAGE], [replace(OUTAGE, uid="v1", validate=True)]))
    _, validation = buffer.sample(global_steps=1, partition_id="val", batch_size=10)
    _, training = buffer.sample(global_steps=2, partition_id="train", batch_size=10)
    assert validation["val-aux/infrastructure/lost_groups"] == 0
    assert training["infrastructure/lost_groups"] == 1
    _, validation = buffer.sample(global_steps=2, partition_id="val", batch_size=10)
    assert validation["val-aux/infrastructure/lost_groups"] == 1
    assert buffer.take_losses() == dict.fromkeys(LOSSES, 0) | {
        "infrastructure/lost_groups": 1,
        "infrastructure/lost_trajectories": 1,
    }
    assert buffer.take_losses() == {}


# ---- asynchronous ----------------------------------------------------------------------------------------------------


def finished(*uids):
    """What TransferQueue says of groups with one trajectory each."""
    return {uid: {"is_prompt": True, "status": "finished", "global_steps": 1} for uid in uids} | {
        f"{uid}_0_0": {"status": "success"} for uid in uids
    }


@pytest.fixture
def queue(monkeypatch):
    """TransferQueue's table of the training partition."""
    table = {}

    def clear(keys, partition_id):
        for key in keys:
            table.pop(key, None)

    for module in (replay_buffer, groups):
        monkeypatch.setattr(module.tq, "kv_list", lambda *_: {"train": table})
        monkeypatch.setattr(module.tq, "kv_clear", clear)
    return table


def async_buffer(take_lost, refill):
    buffer = ReplayBufferAsync("colocate_async", {}, None, "drop", {}, poll_interval=0.0, refill_fn=refill)
    return CompleteGroups(buffer, take_lost, policy=FailurePolicy(max_lost_share=0.5))


def with_a_failed_group(queue, take_lost):
    """(buffer over u1, u2 and u3, which failed, how many groups were asked for instead: each time u4)"""
    queue.update(finished("u1", "u2"))
    queue["u3"] = {"is_prompt": True, "status": "failure", "global_steps": 1}
    refills = []

    def refill(count):
        refills.append(count)
        queue.update(finished("u4"))

    return async_buffer(take_lost, refill), refills


def test_a_lost_group_is_replaced_and_counted_in_asynchronous_training(queue):
    buffer, refills = with_a_failed_group(queue, losing([OUTAGE]))
    batch, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=3)
    assert refills == [1]
    assert sorted(batch.keys) == ["u1_0_0", "u2_0_0", "u4_0_0"]
    assert metrics["infrastructure/lost_groups"] == 1


def test_a_group_that_fails_later_than_its_trajectory_was_lost_is_explained(queue):
    """The loss is known at once, the group's status only when its other trajectories have ended, steps later."""
    buffer = async_buffer(losing([OUTAGE]), lambda count: None)
    for uids, failed in ((["u1", "u2"], []), (["u4", "u5"], ["u3"])):
        queue.update(finished(*uids))
        queue.update({uid: {"is_prompt": True, "status": "failure", "global_steps": 1} for uid in failed})
        batch, _ = buffer.sample(global_steps=1, partition_id="train", batch_size=2)
        assert sorted(batch.keys) == [f"{uid}_0_0" for uid in uids]


def test_a_group_that_had_failed_before_the_checkpoint_is_replaced(queue):
    """TransferQueue brings it back, and no worker of this run knows why it failed."""
    buffer, refills = with_a_failed_group(queue, losing())
    buffer.resumed()
    batch, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=3)
    assert refills == [1]
    assert sorted(batch.keys) == ["u1_0_0", "u2_0_0", "u4_0_0"]
    assert metrics["infrastructure/lost_groups"] == 0
    # Only those: what fails from now on has a reason in this run, or ends it.
    queue["u5"] = {"is_prompt": True, "status": "failure", "global_steps": 1}
    with pytest.raises(RolloutError, match="1 groups failed outside the agent loop"):
        buffer.sample(global_steps=1, partition_id="train", batch_size=1)


def test_asynchronous_training_does_not_replace_for_ever_what_fails_for_no_reason_that_is_known(queue):
    queue["u3"] = {"is_prompt": True, "status": "failure", "global_steps": 1}
    buffer = async_buffer(losing([]), lambda count: None)
    with pytest.raises(RolloutError, match="1 groups failed outside the agent loop"):
        buffer.sample(global_steps=1, partition_id="train", batch_size=1)


def test_a_trainer_that_waits_before_it_samples_hears_of_a_bug(queue):
    buffer = async_buffer(losing([], [BUG]), lambda count: None)
    assert buffer.get_sampleable_count(1, "train") == 0
    with pytest.raises(RolloutError, match="step 4: an agent loop failed"):
        buffer.wait_for_sampleable(4, "train", 1)


def test_more_than_a_tenth_stops(cleared):
    lost = [OUTAGE, LostTrajectory("u4", LossCause.OUTAGE, "another cause")]
    with pytest.raises(InfrastructureError, match=r"step 7: 2 of 10 groups were lost.*Cause: the judge is gone"):
        sample(FakeBuffer(failed=["u3", "u4"]), losing(lost))


@pytest.mark.parametrize(("lost", "of", "stops"), [(1, 9, True), (1, 10, False), (2, 19, True), (12, 128, False)])
def test_the_tenth(lost, of, stops):
    trajectories = [LostTrajectory(f"u{i}", LossCause.OUTAGE, "gone") for i in range(lost)]
    if stops:
        with pytest.raises(InfrastructureError):
            check_lost(trajectories, groups=of, step=1)
    else:
        assert len(check_lost(trajectories, groups=of, step=1)) == lost


def test_a_bug_stops_without_waiting_for_the_rest_of_the_step():
    never = FakeBuffer(polls=1000)
    with pytest.raises(RolloutError, match="step 7: an agent loop failed: Traceback: KeyError"):
        sample(never, losing([], [BUG]))
    assert never.failure_keys == {}


def test_losses_found_while_waiting_count(cleared):
    batch, _ = sample(FakeBuffer(polls=2, failed=["u3"]), losing([OUTAGE]))
    assert len(batch.keys) == 18


def test_a_loss_counts_for_its_own_step_only(cleared):
    buffer = CompleteGroups(FakeBuffer(), losing([OUTAGE]))
    for lost in (1, 0):
        _, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=10)
        assert metrics["infrastructure/lost_groups"] == lost


def test_a_failure_that_no_worker_explains_stops():
    with pytest.raises(RolloutError, match="1 groups failed outside the agent loop"):
        sample(FakeBuffer(failed=["u5"]), losing([]))


def test_nothing_left_names_the_cause():
    class Empty(FakeBuffer):
        def sample(self, **_):
            raise RuntimeError("no materializable trajectories")

    with pytest.raises(InfrastructureError, match="the judge is gone"):
        sample(Empty(), losing([OUTAGE]), batch_size=1)
    with pytest.raises(RuntimeError, match="no materializable"):
        sample(Empty(), losing([]))


def test_a_dead_worker_stops():
    def dead():
        raise ray.exceptions.ActorDiedError

    with pytest.raises(ray.exceptions.ActorDiedError):
        sample(FakeBuffer(polls=1000), dead)


# ---- workers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker():
    made = object.__new__(agent_loop.AgentLoopWorker)
    made._lost = []
    made._rollback = RollbackConfig()
    return made


async def test_the_loop_learns_what_is_validation_and_the_data_do_not(worker, monkeypatch):
    seen = []

    async def run(self, sampling_params, trajectory, *, agent_name, trace=True, **kwargs):
        seen.append(dict(kwargs))
        await self._agent_loop_postprocess("output", trajectory["validate"], **kwargs)

    async def postprocess(self, outputs, validate, **kwargs):
        assert outputs == ["output"]
        seen.append(dict(kwargs))

    monkeypatch.setattr(agent_loop._Worker, "_run_agent_loop", run)
    monkeypatch.setattr(agent_loop._Worker, "_agent_loop_postprocess", postprocess)
    await worker._run_agent_loop({}, trajectory={"validate": True}, agent_name="tool_agent", uid="u1")
    assert seen == [{"uid": "u1", "is_validation": True}, {"uid": "u1"}]


@pytest.mark.parametrize("error", [InfrastructureError("gone"), KeyError("bug")])
async def test_an_exception_is_remembered_and_goes_on(worker, monkeypatch, error):
    async def run(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(agent_loop._Worker, "_run_agent_loop", run)
    with pytest.raises(type(error)):
        await worker._run_agent_loop({}, trajectory={"validate": False}, agent_name="tool_agent", uid="u1")
    (lost,) = await worker.take_lost()
    assert (lost.uid, lost.cause) == ("u1", "outage" if isinstance(error, InfrastructureError) else "bug")
    assert await worker.take_lost() == []


def test_a_bug_is_described_with_its_traceback():
    try:
        {}["key"]
    except KeyError as error:
        lost = agent_loop.describe(error, uid="u1")
    assert lost.cause == "bug"
    assert '{}["key"]' in lost.message


def test_an_outage_in_a_reward_worker_is_an_outage():
    """Ray raises an instance of the original class, which names the cause."""
    wrapped = ray.exceptions.RayTaskError("compute_score", "Traceback …", InfrastructureError("gone"))
    lost = agent_loop.describe(wrapped.as_instanceof_cause(), uid="u1")
    assert lost == LostTrajectory("u1", LossCause.OUTAGE, "gone", "InfrastructureError")


# ---- trainer ---------------------------------------------------------------------------------------------------------


def test_a_lost_group_is_no_wrong_answer_at_validation():
    made = object.__new__(modes.CleanerTrainer)
    made.config = make_config()
    made._validation = Validation(made.config, tokenizer=None, step=1)
    made._validation.lost_groups = {"u3"}
    expected = {("math", "u1"): 1, ("math", "u2"): 2, ("math", "u3"): 1}
    metrics = made._val_metrics_update(
        ["math", "math"], ["u1", "u2"], {"reward": [1.0, 1.0], "acc": [1.0, 1.0]}, [2, 2], expected_acc_counts=expected
    )
    # u3 is gone; the trajectory u2 misses for another reason still counts as VeRL counts it.
    assert metrics["val-aux/math/acc/mean@1"] == 1.0
    assert metrics["val-core/math/acc/mean@2"] == 0.5


def test_an_evaluation_takes_no_statistics_of_verls():
    made = object.__new__(modes.CleanerTrainer)
    made.config = OmegaConf.create({"trainer": {"trajectories_dir": "somewhere"}})
    assert made._val_metrics_update(["math"], ["u1"], {"reward": [1.0]}, [2]) == {}


def test_extra_fields_leave_padding_out(monkeypatch):
    stored = {"a_0_0": {"reward_extra_info": {"acc": 1.0}}, "a_1_0": {}, "pad_0_0": {"reward_extra_info": {"acc": 1.0}}}

    def get(keys, partition_id, select_fields):
        return {select_fields[0]: [stored[key] for key in keys]}

    monkeypatch.setattr(batch.tq, "kv_batch_get", get)
    meta = KVBatchMeta(partition_id="train", keys=list(stored), tags=[{}, {}, {"is_padding": True}])
    assert batch.extra_fields(meta) == {"a_0_0": {"reward_extra_info": {"acc": 1.0}}, "a_1_0": {}}


def test_scores_are_those_that_verl_trains_on(monkeypatch):
    """`rm_scores`, a number a token, as the reward manager left them; jagged."""

    def jagged(*rows):
        return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)

    data = {"rm_scores": jagged([0.0, 0.5], [1.0]), "num_turns": [4, 2]}
    monkeypatch.setattr(batch.tq, "kv_batch_get", lambda keys, partition_id, select_fields: data)
    columns = batch.output_columns(["a_0_0", "a_1_0"], "train")
    assert [(row["score"], row["turns"], row["response_tokens"]) for row in columns.values()] == [
        (0.5, 4, 2),
        (1, 2, 1),
    ]
    assert columns["a_0_0"]["data_source"] is None


def test_groups_of_one_score_teach_nothing():
    scores = {"a_0_0": 1.0, "a_1_0": 1.0, "b_0_0": 0.0, "b_1_0": 1.0, "c_0_0": 0.0, "d_0_0": 0.5}
    assert step_metrics.zero_variance_groups(scores) == {"grpo/zero_variance_groups": 3 / 4}
    assert step_metrics.zero_variance_groups({}) == {}


def test_batch_metrics():
    extra = {f"a_{i}_0": {"reward_extra_info": {"acc": acc}} for i, acc in enumerate((1.0, 0.0, 0.0, 1.0))}
    metrics = step_metrics.batch_metrics(extra)
    assert metrics["critic/score/acc"] == 0.5
    assert metrics["grpo/total_samples"] == 4
    assert "critic/score/acc" not in step_metrics.batch_metrics({"a_0_0": {}})
    with_negatives = step_metrics.batch_metrics(extra, negatives=1)
    assert with_negatives["critic/score/acc"] == 0.5
    assert {key: value for key, value in with_negatives.items() if key.startswith("grpo/")} == {
        "grpo/num_positive_samples": 4,
        "grpo/num_negative_samples": 1,
        "grpo/total_samples": 5,
        "grpo/negative_ratio": 0.2,
    }


def test_trajectories_of_other_loops_have_no_record():
    assert batch.records_of({"a_0_0": {"rollback_record": {"a": 1}}, "a_1_0": {}}) == {"a_0_0": {"a": 1}}
