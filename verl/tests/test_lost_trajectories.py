"""What lost trajectories do to a run: the policy, exceptions of a reward function, VeRL's refill, other agent loops."""

import logging
from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest
import ray
import torch
from loop_harness import ScriptedServer, call, make_config, rollback, run_loop
from tensordict import NonTensorData, NonTensorStack, TensorDict
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop as StockToolAgentLoop

from verl_cleaner.rollout import agent_loop_worker as worker_module
from verl_cleaner.rollout.agent_loop_worker import AgentLoopWorker, RewardError, describe
from verl_cleaner.rollout.carried import MASK_FIELD
from verl_cleaner.rollout.lost_trajectory import FailurePolicy, LossCause, LostTrajectory, RolloutError, check_lost
from verl_cleaner.rollout.other_loops import as_marked, check_rows
from verl_cleaner.rollout.tool_agent_loop import RollbackMixin, ToolAgentLoop
from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.outcome import InfrastructureError
from verl_cleaner.training.groups import CompleteGroups


def outages(count):
    return [LostTrajectory(f"u{i}", LossCause.OUTAGE, "the judge is gone") for i in range(count)]


def rewards(count):
    return [LostTrajectory(f"r{i}", LossCause.REWARD, "KeyError: 'answer'", "KeyError") for i in range(count)]


# ---- the policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "lost", "groups", "stops"),
    [
        ({}, 1, 10, False),
        ({}, 2, 10, True),
        ({}, 1, 4, True),
        ({"min_lost_groups": 3}, 2, 4, False),
        ({"min_lost_groups": 3}, 3, 4, True),
        ({"max_lost_share": 0.5}, 5, 10, False),
        ({"max_lost_share": 0.5}, 6, 10, True),
        ({"max_lost_share": 0}, 1, 1000, True),
    ],
)
def test_how_many_groups_a_step_may_lose(values, lost, groups, stops):
    policy = FailurePolicy(**values)
    if stops:
        with pytest.raises(
            InfrastructureError, match=rf"step 4: {lost} of {groups} groups were lost, {lost} to outages"
        ):
            check_lost(outages(lost), groups=groups, step=4, policy=policy)
    else:
        assert len(check_lost(outages(lost), groups=groups, step=4, policy=policy)) == lost


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_lost_share": 1}, r"trainer.max_lost_share must be in \[0, 1\), got 1"),
        ({"max_lost_share": "a tenth"}, r"max_lost_share must be in"),
        ({"min_lost_groups": 0}, r"trainer.min_lost_groups must be an integer >= 1, got 0"),
        ({"reward_errors": "ignore"}, r"trainer.reward_errors must be one of lose, stop, got 'ignore'"),
    ],
)
def test_the_policy_is_checked(values, message):
    with pytest.raises(ValueError, match=message):
        FailurePolicy.of({"other": 1} | values)


# ---- the reward function ---------------------------------------------------------------------------------------------


def test_an_exception_of_the_reward_function_loses_its_group():
    assert check_lost(rewards(1), groups=10, step=1) == {"r0": "reward"}
    with pytest.raises(RolloutError, match="step 1: the reward function failed: KeyError"):
        check_lost(rewards(1), groups=10, step=1, policy=FailurePolicy(reward_errors="stop"))


def test_a_reward_function_that_always_fails_ends_the_run():
    with pytest.raises(RolloutError, match=r"2 of 10 groups were lost, 0 to outages and 2 to exceptions of the reward"):
        check_lost(rewards(2), groups=10, step=1)
    with pytest.raises(InfrastructureError, match="1 to outages and 2 to exceptions"):
        check_lost([*outages(1), *rewards(2)], groups=10, step=1)


@pytest.fixture
def worker():
    made = object.__new__(AgentLoopWorker)
    made._lost, made._rollback = [], RollbackConfig(enable_tool_rollback=True)
    made.config = make_config(*rollback())
    return made


REMOTE = ray.exceptions.RayTaskError("score", "Traceback", ZeroDivisionError("0")).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "cause", "kind"),
    [
        (KeyError("answer"), "reward", "KeyError"),
        (InfrastructureError("judge"), "outage", "InfrastructureError"),
        (REMOTE, "reward", "ZeroDivisionError"),
        (ray.exceptions.ActorDiedError(), "outage", "ActorDiedError"),
    ],
)
async def test_where_an_exception_comes_from(worker, monkeypatch, error, cause, kind):
    async def compute(self, outputs, kwargs):
        raise error

    monkeypatch.setattr(worker_module._Worker, "_compute_score", compute)
    with pytest.raises((RewardError, type(error))) as raised:
        await worker._compute_score([SimpleNamespace(reward_score=0.0)], kwargs={})
    lost = describe(raised.value, uid="u1")
    assert (lost.cause, lost.kind) == (cause, kind)
    assert cause == "outage" or kind in lost.message


class Buffer:
    """Ten groups of two trajectories; VeRL calls `_terminal_eviction_reasons` while it waits."""

    poll_interval, sync_refill_failed_groups = 1.0, True

    def __init__(self, failed=()):
        self.failure_keys = defaultdict(set, {"train": set(failed), "val": set(failed)})

    def _wait_for_next_poll(self, partition_id, last_debug_time):
        return last_debug_time

    def _terminal_eviction_reasons(self, global_steps, partition_id):
        return set(), {"filtered"}, {"empty"}, Counter()

    def sample(self, global_steps, partition_id, batch_size):
        from transfer_queue import KVBatchMeta

        self.failure_keys[partition_id] = set()
        keys = [f"u{group}_{i}_0" for group in range(batch_size) for i in range(2)]
        return KVBatchMeta(partition_id=partition_id, keys=keys, tags=[{} for _ in keys]), {}


def test_the_cause_is_logged_once_a_kind_and_counted(caplog, monkeypatch):
    monkeypatch.setattr("verl_cleaner.training.groups.tq.kv_clear", lambda **_: None)
    lost = iter([rewards(1), outages(1), rewards(1)])
    buffer = CompleteGroups(Buffer(), lambda: next(lost, []))
    with caplog.at_level(logging.ERROR):
        counts = [buffer.sample(global_steps=step, partition_id="train", batch_size=20)[1] for step in range(3)]
    assert [entry.message for entry in caplog.records] == [
        "the reward function raised KeyError; its group is lost:\nKeyError: 'answer'"
    ]
    assert [c["reward/lost_groups"] for c in counts] == [1, 0, 1]
    assert [c["infrastructure/lost_groups"] for c in counts] == [0, 1, 0]


def test_verl_refills_groups_that_lost_a_trajectory():
    buffer = Buffer(failed=["u3"])
    lost = [LostTrajectory(uid, LossCause.OUTAGE, "the judge is gone") for uid in ("u3", "empty")]
    CompleteGroups(buffer, lambda: lost)
    assert buffer._terminal_eviction_reasons(1, "train")[:3] == (set(), {"filtered"}, {"empty", "u3"})
    assert buffer._terminal_eviction_reasons(1, "val")[:3] == (set(), {"filtered"}, {"empty"})
    off = Buffer(failed=["u3"])
    off.sync_refill_failed_groups = False
    CompleteGroups(off, list)
    assert off._terminal_eviction_reasons(1, "train")[2] == {"empty"}


# ---- loops without SAAR ----------------------------------------------------------------------------------------------


class Theirs(StockToolAgentLoop):
    pass


class Repairing(RollbackMixin, Theirs):
    pass


@pytest.fixture(autouse=True)
def loops(monkeypatch):
    for name, cls in (("tool_agent", ToolAgentLoop), ("theirs", Theirs), ("mixed", Repairing)):
        monkeypatch.setitem(_agent_loop_registry, name, {"_target_": f"{cls.__module__}.{cls.__qualname__}"})


ON = RollbackConfig(enable_tool_rollback=True)


def test_rows_of_a_loop_without_saar_stop_the_run():
    names = ["tool_agent", "theirs", "mixed", "theirs"]
    message = r"2 of 4 rows \(extra_info.index 7, 9\) use the agent loop 'theirs' \(\S+Theirs\), which has no"
    with pytest.raises(RolloutError, match=message):
        check_rows(names, [6, 7, 8, 9], ON, validate=False)
    check_rows(["tool_agent", "mixed"], [6, 8], ON, validate=False)


@pytest.mark.parametrize(
    ("values", "validate"),
    [
        ({"enable_tool_rollback": False}, False),
        ({"rollback_other_loops": "allow"}, False),
        ({"rollback_at_validation": False}, True),
    ],
)
def test_where_nothing_would_be_repaired_anyway_nothing_stops(values, validate):
    config = RollbackConfig(**{"enable_tool_rollback": True} | values)
    check_rows(["theirs"], [1], config, validate=validate)


def test_an_unknown_loop_is_named():
    with pytest.raises(RolloutError, match=r"no agent loop is registered as 'their', only .*agent_name"):
        check_rows(["their"], [1], ON, validate=False)


@pytest.mark.parametrize(
    ("column", "concerned"),
    [
        (NonTensorStack("tool_agent", "theirs"), r"1 of 2 rows \(extra_info.index 9\)"),
        (NonTensorData("theirs", batch_size=[2]), r"2 of 2 rows \(extra_info.index 5, 9\)"),
        (None, None),
    ],
    ids=["a column", "one value", "the default"],
)
async def test_the_worker_looks_before_it_samples(worker, monkeypatch, column, concerned):
    sampled = []

    async def generate(self, batch):
        sampled.append(batch)

    monkeypatch.setattr(worker_module._Worker, "generate_sequences", generate)
    batch = TensorDict({"index": torch.tensor([5, 9]), "validate": NonTensorData(False, batch_size=[2])}, [2])
    if column is not None:
        batch["agent_name"] = column
    if concerned:
        with pytest.raises(RolloutError, match=concerned):
            await worker.generate_sequences(batch)
    else:
        await worker.generate_sequences(batch)
    assert len(sampled) == (concerned is None)


async def test_allowed_rows_have_the_fields_of_the_others():
    """One batch holds rows of both kinds."""
    values = {"save_negative_samples": True, "rollback_failed_calls": "leaf"}
    script = [call("NameError x"), call("ok 1"), "Done."]
    ours, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), make_config(*rollback(**values)))
    theirs, _ = await run_loop(StockToolAgentLoop, ScriptedServer(script), make_config())
    marked = as_marked(theirs, RollbackConfig(enable_tool_rollback=True, **values), validate=False)
    assert set(marked.as_dict()) == set(ours.as_dict())
    assert marked.as_dict()[MASK_FIELD].sum() == 0
    assert as_marked(theirs, RollbackConfig(), validate=False) is theirs
    assert as_marked(ours, ON, validate=False) is ours
