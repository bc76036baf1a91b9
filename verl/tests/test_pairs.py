"""Which failed calls stand beside their repair, and how they reach the actor."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loop_harness import TOKENIZER, ScriptedServer, call, encode, make_config, rollback, run_loop
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.workers.engine_workers import ActorRolloutRefWorker

from verl_cleaner.rollout.carried import PAIRS_FIELD, pack, unpack
from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop
from verl_cleaner.saar.pair import Pair, make_pair, share_out
from verl_cleaner.saar.segment import Turn
from verl_cleaner.training import modes, trainer
from verl_cleaner.training.actor import CriticWorker, ExtendedActorWorker
from verl_cleaner.training.pairs import grant
from verl_cleaner.training.pairs.config import DpoConfig
from verl_cleaner.training.pairs.grant import GRANTED_FIELD, grant_pairs
from verl_cleaner.training.pairs.step import finish_dpo_metrics
from verl_cleaner.training.step_metrics import batch_metrics

FAIL, WORSE, FIXED = (
    call(code) for code in ("NameError x is not set", "TypeError x is not set", "ok NameError x is 1")
)
OTHER, END = call("ok 42"), "<|im_end|>"


async def pairs_of(script, **run):
    """(prefix, repaired, failed) of each pair, as text, and the fields that travel."""
    values = {"save_negative_samples": True} | run.pop("values", {})
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), make_config(*rollback(**values)), **run)
    fields = output.as_dict()
    prompt, response = output.prompt_ids, output.response_ids
    texts = [
        [TOKENIZER.decode(ids) for ids in (response[: pair.start], response[pair.start : pair.end], pair.failed)]
        for pair in unpack(fields.get(PAIRS_FIELD, torch.tensor([0])))
    ]
    assert prompt
    assert "pairs" not in fields
    return [tuple(text) for text in texts], fields


async def test_the_failed_call_stands_beside_its_repair():
    pairs, _ = await pairs_of([f"A. {FAIL}", f"B. {FIXED}", "Done."])
    assert pairs == [("A. ", f"{FIXED}{END}", f"{FAIL}{END}")]


async def test_the_failed_tokens_are_those_sampled_after_the_prefix():
    server = ScriptedServer([f"A. {FAIL}", f"B. {FIXED}", "Done."])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(save_negative_samples=True)))
    (pair,) = unpack(output.as_dict()[PAIRS_FIELD])
    as_sampled = server.contexts[0] + encode(f"A. {FAIL}{END}")
    assert [*output.prompt_ids, *output.response_ids[: pair.start], *pair.failed] == as_sampled


async def test_the_last_failing_state_is_kept():
    pairs, _ = await pairs_of([f"A. {FAIL}", f"B. {WORSE}", f"C. {FIXED}", "Done."])
    assert pairs == [("A. ", f"{FIXED}{END}", f"{WORSE}{END}")]


async def test_every_repaired_turn_makes_one():
    pairs, _ = await pairs_of([f"A. {FAIL}", f"B. {FIXED}", f"C. {WORSE}", f"D. {FIXED}", "Done."])
    assert [failed for _, _, failed in pairs] == [f"{FAIL}{END}", f"{WORSE}{END}"]
    assert pairs[1][0].startswith(f"A. {FIXED}{END}")
    assert pairs[1][0].endswith("C. ")


async def test_a_repair_with_reasoning_of_its_own_has_another_prefix():
    assert (await pairs_of([f"A. {FAIL}", f"B. {OTHER}", "Done."]))[0] == []
    assert (await pairs_of([FAIL, OTHER, "Done."]))[0] == [("", f"{OTHER}{END}", f"{FAIL}{END}")]


@pytest.mark.parametrize(
    "script",
    [
        [f"A. {FAIL}", f"B. {WORSE}", f"C. {WORSE}", f"D. {WORSE}", "Done."],
        [f"A. {FAIL}", "I cannot."],
        [f"A. {FIXED}", "Done."],
    ],
    ids=["never repaired", "no call", "nothing failed"],
)
async def test_no_pair_without_a_repair(script):
    pairs, fields = await pairs_of(script)
    assert pairs == []
    assert fields[PAIRS_FIELD].tolist() == [0]


@pytest.mark.parametrize(
    "run",
    [{"is_validation": True}, {"values": {"save_negative_samples": False}}],
    ids=["validation", "off"],
)
async def test_nothing_travels(run):
    _, fields = await pairs_of([f"A. {FAIL}", f"B. {FIXED}", "Done."], **run)
    assert PAIRS_FIELD not in fields


async def test_keeping_pairs_changes_nothing_else():
    script = [f"A. {FAIL}", f"B. {FIXED}", f"C. {WORSE}", f"D. {FIXED}", "Done."]
    (_, off), (_, on) = [await pairs_of(script, values={"save_negative_samples": save}) for save in (False, True)]
    assert set(on) - set(off) == {PAIRS_FIELD}
    for key in ("prompts", "responses", "response_mask", "rollout_log_probs", "overwritten_mask"):
        assert torch.equal(off[key], on[key])


async def test_a_gated_off_trajectory_travels_without_pairs():
    _, fields = await pairs_of([f"A. {FAIL}", "Done."], values={"rollback_probability": 0})
    assert fields[PAIRS_FIELD].tolist() == [0]


@pytest.mark.parametrize(
    ("failed", "repaired", "pair"),
    [
        (Turn((1, 2, 8), boundary=1), Turn((1, 3, 9), boundary=1), Pair(11, 13, (2, 8))),
        (Turn((2, 8), boundary=0), Turn((3,), boundary=0), Pair(10, 11, (2, 8))),
        (Turn((1, 2), boundary=1), Turn((4, 3), boundary=1), None),
        (Turn((1, 2), boundary=1), Turn((1, 1, 3), boundary=2), None),
        (Turn((1, 2), boundary=1), Turn((1, 2), boundary=1), None),
        (Turn((1, 2)), Turn((1, 3), boundary=1), None),
        (Turn((1, 2), boundary=1), Turn((1, 3)), None),
    ],
)
def test_make_pair(failed, repaired, pair):
    assert make_pair(failed, repaired, start=10) == pair


ids = st.lists(st.integers(0, 2**40), min_size=1, max_size=5).map(tuple)
some_pairs = st.lists(
    st.builds(
        lambda start, size, failed: Pair(start, start + size, failed), st.integers(0, 99), st.integers(1, 9), ids
    ),
    max_size=4,
)


@given(some_pairs, st.integers(0, 3))
def test_packing_is_reversible_also_when_padded(pairs, padding):
    packed = pack(pairs)
    assert packed.dtype == torch.int64
    assert unpack(torch.cat([packed, torch.zeros(padding, dtype=torch.int64)])) == pairs


# ---- sharing out -----------------------------------------------------------------------------------------------------


def test_first_pairs_go_first():
    available = {"g_0_0": 2, "g_1_0": 1, "h_0_0": 1, "h_1_0": 0}
    assert share_out(available, limit=2, seed=(0,)) == {"g_0_0": 1, "g_1_0": 1, "h_0_0": 1, "h_1_0": 0}
    assert share_out(available, limit=9, seed=(0,)) == available
    assert sum(share_out(available, limit=0, seed=(0,)).values()) == 0


@given(
    st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(0, 7)), st.integers(0, 3)),
    st.integers(0, 4),
    st.integers(0, 9),
    st.randoms(),
)
def test_sharing_out(counts, limit, step, random):
    available = {f"{group}_{rollout}_0": count for (group, rollout), count in counts.items()}
    granted = share_out(available, limit=limit, seed=(0, step))
    assert all(granted[key] <= count for key, count in available.items())
    for group in "abc":
        had = sum(count for key, count in available.items() if key[0] == group)
        assert sum(count for key, count in granted.items() if key[0] == group) == min(had, limit)
    # Groups have another name in every run, and trajectories come in any order.
    renamed = [(f"run2{key}", count) for key, count in available.items()]
    random.shuffle(renamed)
    again = share_out(dict(renamed), limit=limit, seed=(0, step))
    assert again == {f"run2{key}": count for key, count in granted.items()}


def test_no_rollout_is_always_preferred():
    available = {f"g_{rollout}_0": 1 for rollout in range(4)}
    chosen = {max(granted := share_out(available, limit=1, seed=(0, s)), key=granted.get) for s in range(40)}
    assert chosen == set(available)


def test_padding_is_granted_nothing(monkeypatch):
    pair = Pair(0, 1, (7,))
    stored = {"g_0_0": [pair], "g_1_0": [], "pad1_0_0": [pair]}
    written = {}

    def get(keys, partition_id, select_fields):
        return {select_fields[0]: torch.nested.as_nested_tensor([pack(stored[k]) for k in keys], layout=torch.jagged)}

    monkeypatch.setattr(grant.tq, "kv_batch_get", get)

    def put(keys, partition_id, fields):
        written.update(fields.items())
        return KVBatchMeta(partition_id=partition_id, keys=keys, tags=[{}] * len(keys), fields=[*fields.keys()])

    monkeypatch.setattr(grant.tq, "kv_batch_put", put)
    tags = [{}, {}, {"is_padding": True}]
    batch = KVBatchMeta(partition_id="train", keys=list(stored), tags=tags, fields=[PAIRS_FIELD])
    batch, negatives = grant_pairs(batch, limit=5, seed=(0, 1))
    assert negatives == 1
    assert GRANTED_FIELD in batch.fields
    assert written[GRANTED_FIELD].tolist() == [1, 0, 0]


def test_trajectories_of_another_loop_are_refused():
    batch = KVBatchMeta(partition_id="train", keys=["g_0_0"], tags=[{}], fields=["responses"])
    with pytest.raises(ValueError, match=r"carry no pairs.*agent_name"):
        grant_pairs(batch, limit=1, seed=(0, 1))


# ---- trainer ---------------------------------------------------------------------------------------------------------


def test_the_actor_is_ours(monkeypatch):
    def init(self):
        self.role_worker_mapping = {
            Role.ActorRolloutRef: ActorRolloutRefWorker,
            Role.Critic: "critic",
            Role.RefPolicy: "ref",
        }

    monkeypatch.setattr(modes.PPOTrainerSync, "_init_resource_pool_mgr", init)
    monkeypatch.setattr(trainer.ray, "remote", lambda cls: cls)
    made = object.__new__(modes.CleanerTrainer)
    made._init_resource_pool_mgr()
    assert made.role_worker_mapping == {
        Role.ActorRolloutRef: ExtendedActorWorker,
        Role.Critic: CriticWorker,
        Role.RefPolicy: "ref",
    }


@pytest.mark.parametrize("save", [False, True])
def test_pairs_are_granted_before_the_update(monkeypatch, save):
    calls = []

    def update(self, batch, metrics):
        calls.append(("update", batch))
        return batch

    def grant(batch, *, limit, seed):
        calls.append(("grant", limit, seed))
        return "granted batch", 3

    monkeypatch.setattr(modes.PPOTrainerSync, "_update_actor", update)
    monkeypatch.setattr(trainer, "grant_pairs", grant)
    made = object.__new__(modes.CleanerTrainer)
    made.config = make_config(*rollback(save_negative_samples=save, max_negative_samples_per_group=2))
    made.global_steps = 5
    made._update_actor("batch", {})
    granted = [("grant", 2, (made.config.actor_rollout_ref.rollout.get("seed", 0), 5)), ("update", "granted batch")]
    assert calls == (granted if save else [("update", "batch")])
    assert made._granted_pairs == (3 if save else 0)


@pytest.mark.parametrize(("save", "dpo"), [(False, False), (True, False), (True, True)])
def test_the_configuration_chooses_whether_pairs_are_in_the_loss(save, dpo):
    told = []

    class Workers:
        def set_loss_fn(self, loss):
            pass

        def set_pairs(self, config):
            told.append(config)

    values = [f"+algorithm.{key}={value}" for key, value in {"use_dpo_on_tool_calls": dpo, "dpo_beta": 0.5}.items()]
    values.append("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4")
    made = object.__new__(modes.CleanerTrainer)
    made.config, made.actor_rollout_wg = make_config(*rollback(save_negative_samples=save), *values), Workers()
    made.set_losses()
    assert told == ([DpoConfig(use_dpo_on_tool_calls=True, dpo_beta=0.5)] if dpo else [])


# ---- docs/pairs.md ---------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text()


def test_every_parameter_is_documented_with_its_default():
    documented = dict(re.findall(r"^\| `algorithm\.(\w+)` \| `([\w.]+)` \|", PAGE, re.MULTILINE))
    assert documented == {field.name: str(field.default) for field in fields(DpoConfig)}
    named = set(re.findall(r"`multi_turn\.(\w+)`", PAGE))
    assert named == {"save_negative_samples", "max_negative_samples_per_group"}


def test_every_metric_is_documented():
    names = ("pairs", "correct", "margin", "loss", "scale", "gradient_share")
    metrics = {f"actor/dpo_{name}": 1.0 for name in names} | {"actor/loss": 1.0}
    finish_dpo_metrics(metrics)
    assert set(metrics) - {"actor/loss"} == set(re.findall(r"`(dpo/\w+)`", PAGE))
    assert set(re.findall(r"`(grpo/\w+)`", PAGE)) == {k for k in batch_metrics({}) if k.startswith("grpo/")}
