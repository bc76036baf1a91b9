"""The parts of credit for failed calls that need no trainer: scores, penalty, metrics, and what docs/credit.md says."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from loop_harness import make_config, rollback
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_cleaner.rollout.carried import LEAVES_FIELD, pack_leaves
from verl_cleaner.saar.leaf import Leaf
from verl_cleaner.saar.record import RECORD_FIELD, Attempt, Retry, RetryResult, TrajectoryRecord, standing_failures
from verl_cleaner.training.credit import penalty, rows
from verl_cleaner.training.credit import trainer as credit_trainer
from verl_cleaner.training.credit.metrics import leaf_metrics
from verl_cleaner.training.credit.minibatch import VALUES_FIELD, leaf_rows, pack_values
from verl_cleaner.training.credit.score import failed_call_score

PAGE = (Path(__file__).parents[2] / "docs" / "credit.md").read_text()


# ---- the score of a leaf ---------------------------------------------------------------------------------------------

GYM = "reward.custom_reward_function.path=pkg://verl_cleaner.reward.reasoning_gym"
ROUTER = "reward.custom_reward_function.path=pkg://verl_cleaner.reward.router"


@pytest.mark.parametrize(
    ("overrides", "source", "score"),
    [
        ([GYM], "reasoning_gym/chain_sum", 0),
        ([ROUTER], "math_dapo", -1),
        ([ROUTER], "train-code-taco", -1),
        ([ROUTER], "reasoning_gym/chain_sum", 0),
        ([ROUTER, *rollback(rollback_failed_call_score=-0.5)], "math_dapo", -0.5),
    ],
)
def test_a_leaf_has_the_score_of_a_wrong_answer(overrides, source, score):
    assert failed_call_score(make_config(*overrides))(source) == score


async def test_what_ours_declare_is_what_a_trajectory_without_an_answer_gets():
    from verl_cleaner.reward import reasoning_gym, router

    truth = {"math_dapo": "1", "gpqa_diamond": "A"}
    for source, answer in truth.items():
        found = await router.compute_score(source, "I give up.", answer)
        assert found["score"] == router.wrong_answer_score(source)
    entry = {"extra_info": {"entry": '{"question": "1 + 1", "answer": "2", "metadata": {}}'}}
    for source in ("reasoning_gym/chain_sum",):
        found = reasoning_gym.compute_score(source, "I give up.", "2", **entry)
        assert found["score"] == reasoning_gym.wrong_answer_score(source) == router.wrong_answer_score(source)


def test_a_reward_function_that_declares_none_is_refused(tmp_path):
    path = tmp_path / "reward.py"
    path.write_text("def compute_score(*_, **__): return 0.0\n")
    with pytest.raises(ValueError, match=r"reward\.py declares none; set rollback_failed_call_score"):
        failed_call_score(make_config(f"reward.custom_reward_function.path={path}"))
    path.with_name("mine.py").write_text("def wrong_answer_score(data_source, low): return low if data_source else 9\n")
    mine = f"reward.custom_reward_function.path={path.with_name('mine.py')}"
    config = make_config(mine, "reward.custom_reward_function.reward_kwargs.low=-3")
    assert failed_call_score(config)("any") == -3


# ---- the penalty -----------------------------------------------------------------------------------------------------


def record(attempts, results=()):
    made = TrajectoryRecord(enabled=True, eligible=True)
    made.attempts = [Attempt(turn, (kind,), (0.1,), span) for turn, kind, span in attempts]
    made.retries = [Retry(turn, ("NameError",), result, "", "") for turn, result in results]
    return made.as_dict()


ERR, OVERWRITTEN, KEPT = "NameError", RetryResult.OVERWRITTEN, RetryResult.KEPT


@pytest.mark.parametrize(
    ("attempts", "results", "spans"),
    [
        ([(1, ERR, (2, 5)), (2, None, None)], [], [(2, 5)]),
        ([(1, ERR, (2, 5)), (1, None, None)], [(1, OVERWRITTEN)], []),
        ([(1, ERR, (2, 5)), (1, ERR, (2, 6))], [(1, OVERWRITTEN), (1, RetryResult.NO_ROOM)], [(2, 6)]),
        ([(1, ERR, (2, 5)), (1, ERR, (8, 9))], [(1, KEPT)], [(2, 5), (8, 9)]),
        ([(1, ERR, (2, 5)), (1, None, None), (2, ERR, (7, 9))], [(1, OVERWRITTEN), (2, RetryResult.NO_CALL)], [(7, 9)]),
    ],
    ids=["not repaired", "repaired", "repaired, failed again", "kept", "later turn"],
)
def test_a_failed_call_stands_unless_it_was_overwritten(attempts, results, spans):
    assert standing_failures(record(attempts, results)) == spans


class Store:
    """Of TransferQueue, what is needed here: rows by key."""

    def __init__(self, stored):
        self.rows = stored

    def kv_batch_get(self, keys, partition_id, select_fields):
        chosen = [{name: self.rows[key][name] for name in select_fields if name in self.rows[key]} for key in keys]
        return list_of_dict_to_tensordict(chosen)

    def kv_batch_put(self, keys, partition_id, fields, tags=None):
        for i, key in enumerate(keys):
            self.rows.setdefault(key, {}).update({name: fields[name][i] for name in fields.keys()})  # noqa: SIM118
        names = [*self.rows[keys[0]]]
        return KVBatchMeta(partition_id=partition_id, keys=keys, tags=tags or [{}] * len(keys), fields=names)


def test_the_advantage_of_a_failed_calls_trained_tokens_is_lowered(monkeypatch):
    failed = {RECORD_FIELD: record([(1, ERR, (1, 9))])}
    row = {"advantages": torch.ones(4), "response_mask": torch.tensor([1, 1, 0, 1]), "extra_fields": failed}
    fine = {"advantages": torch.ones(2), "response_mask": torch.ones(2).long()}
    fine["extra_fields"] = {RECORD_FIELD: record([])}
    store = Store({"g_0_0": dict(row), "g_1_0": dict(fine), "pad_0_0": dict(row)})
    monkeypatch.setattr(penalty, "tq", store)
    tags = [{}, {}, {"is_padding": True}]
    batch = KVBatchMeta(partition_id="train", keys=list(store.rows), tags=tags, fields=["advantages"])
    _, metrics = penalty.charge_failed_calls(batch, 0.25)
    assert store.rows["g_0_0"]["advantages"].tolist() == [1, 0.75, 1, 0.75]
    assert store.rows["g_1_0"]["advantages"].tolist() == [1, 1]
    assert store.rows["pad_0_0"]["advantages"].tolist() == [1, 1, 1, 1]
    assert metrics == {"failed_call_penalty/tokens": 2}
    store.rows["g_1_0"]["extra_fields"] = {}
    with pytest.raises(ValueError, match=r"no record of their calls.*agent_name"):
        penalty.charge_failed_calls(batch, 0.25)


# ---- rows ------------------------------------------------------------------------------------------------------------


def put(batch):
    return rows.put_rows(batch, float, split=False, workers=2, micro_batch=None, eos=0)


def test_trajectories_of_another_loop_are_refused(monkeypatch):
    monkeypatch.setattr(rows, "tq", Store({"g_0_0": {"response_mask": torch.ones(2)}}))
    batch = KVBatchMeta(partition_id="train", keys=["g_0_0"], tags=[{}])
    with pytest.raises(ValueError, match=r"carry no leaves.*agent_name"):
        put(batch)


def test_padding_rows_have_no_leaves_although_they_copy_some(monkeypatch):
    stored = pack_leaves([Leaf(0, (1, 2))])
    store = Store({"g_0_0": pack_leaves([]), "pad_0_0": stored})
    monkeypatch.setattr(rows, "tq", store)
    tags = [{}, {"is_padding": True}]
    batch = KVBatchMeta(partition_id="train", keys=list(store.rows), tags=tags, fields=[*stored])
    assert put(batch) is None


def test_a_leafs_key_is_of_its_trajectorys_group():
    key = rows.row_key("some_group_3_0", 1)
    uid, session, output = key.rsplit("_", 2)
    assert (uid, int(output)) == ("some_group", 0)
    assert session not in ("3", rows.row_key("some_group_3_0", 0).rsplit("_", 2)[1])


# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_by_hand():
    members = [("a", 1.0, 10, 0.5), ("a", 1.0, 10, 0.5), ("b", 0.0, 10, 0.0), ("b", 0.0, 10, 0.0)]
    leaves = [("a", -1.0, 4, -2.0), ("b", 0.0, 6, 0.0)]
    assert leaf_metrics(members, leaves) == pytest.approx(
        {
            "leaves/count": 2,
            "leaves/per_group": 1,
            "leaves/tokens": 10,
            "leaves/token_share": 10 / 50,
            "leaves/gradient_share": 8 / 18,
            "leaves/saved_groups": 1,
            "leaves/advantage_mean": -1,
        }
    )
    assert leaf_metrics(members, [])["leaves/count"] == 0
    assert "leaves/advantage_mean" not in leaf_metrics(members, [])


# ---- docs/credit.md --------------------------------------------------------------------------------------------------


def test_every_parameter_is_documented_with_its_default():
    documented = dict(re.findall(r"^\| `algorithm\.(\w+)` \| `([\w.]+)` \|", PAGE, re.MULTILINE))
    assert documented == {penalty.KEY: str(penalty.failed_call_penalty({}))}


def test_every_metric_is_documented():
    found = leaf_metrics([("a", 1.0, 1, 1.0)], [("a", 0.0, 1, -1.0)])
    names = {
        *found,
        "leaves/sequence_tokens",
        "leaves/kl",
        "leaves/clipfrac",
        "failed_call_penalty/tokens",
    }
    assert names == set(re.findall(r"`((?:leaves|failed_call_penalty)/\w+)`", PAGE))


def test_attempts_travel_with_their_span():
    assert asdict(Attempt(1, (None,), (0.1,)))["span"] is None


# ---- from the trainer's rows to the actor's --------------------------------------------------------------------------


def test_the_actor_trains_on_what_was_computed_for_each_leaf(monkeypatch):
    """Two trajectories and padding that copies the first one's leaves; rows come back in another order."""
    leaves = {"g_0_0": [Leaf(2, (11, 12)), Leaf(0, (13, 14, 15))], "g_1_0": [Leaf(1, (16,))]}
    keys = [rows.row_key(key, number) for key, own in leaves.items() for number in range(len(own))]
    stored = {}
    for key, leaf in zip(keys, [leaf for own in leaves.values() for leaf in own], strict=True):
        before = torch.zeros(leaf.start)
        stored[key] = {
            name: torch.cat([before, 10.0 * number + torch.tensor(leaf.ids)])
            for number, name in enumerate(("old_log_probs", "advantages", "ref_log_prob"))
        }
        stored[key]["response_mask"] = torch.cat([before, torch.ones(len(leaf.ids))])
    monkeypatch.setattr(credit_trainer, "tq", Store(stored))
    batch = KVBatchMeta(partition_id="train", keys=list(reversed(keys)), tags=[{}] * len(keys))
    values = credit_trainer._values(rows.LeafRows(leaves, batch, split=False), "train")
    prompts = {"g_0_0": [1, 2], "g_1_0": [3], "pad_0_0": [0]}
    responses = {"g_0_0": [4, 5, 6, 7], "g_1_0": [8, 9], "pad_0_0": [0]}
    trajectories = [
        {
            "prompts": torch.tensor(prompts[key]),
            "responses": torch.tensor(responses[key]),
            LEAVES_FIELD: pack_leaves(leaves["g_0_0" if key == "pad_0_0" else key])[LEAVES_FIELD],
            VALUES_FIELD: pack_values(values.get(key, [])),
        }
        for key in prompts
    ]
    found = leaf_rows(list_of_dict_to_tensordict(trajectories))
    assert [row["input_ids"].tolist() for row in found] == [[1, 2, 4, 5, 11, 12], [1, 2, 13, 14, 15], [3, 8, 16]]
    assert [row["loss_mask"].tolist() for row in found] == [[0, 0, 1, 1], [1, 1, 1], [0, 1]]
    assert [row["response_mask"].tolist() for row in found] == [[0, 0, 1, 1], [1, 1, 1], [0, 1]]
    assert [row["old_log_probs"].tolist() for row in found] == [[0, 0, 11, 12], [13, 14, 15], [0, 16]]
    assert [row["advantages"].tolist() for row in found] == [[0, 0, 21, 22], [23, 24, 25], [0, 26]]
    assert [row["ref_log_prob"].tolist() for row in found] == [[0, 0, 31, 32], [33, 34, 35], [0, 36]]
    # Not in use: weights of 1.
    assert [row["rollout_is_weights"].tolist() for row in found] == [[0, 0, 1, 1], [1, 1, 1], [0, 1]]
