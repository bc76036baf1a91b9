"""Leaves as rows of VeRL's batch in TransferQueue, for as long as log-probs and advantages are computed.

A row is prompt + response[:start] + the leaf's tokens; only the latter are trained on. Its key,
`{uid}_{session}.leaf{n}_{output}`, puts it into the group of its trajectory, as VeRL reads keys. Where the leaves of a
trajectory split one weight, only the first is in the group while advantages are computed; then each gets its part of
that leaf's advantage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_cleaner.rollout.carried import LEAF_SCORES_FIELD, LEAVES_FIELD, unpack_leaves
from verl_cleaner.saar.leaf import Leaf


@dataclass(frozen=True, slots=True)
class LeafRows:
    """leaves: of each trajectory that has any, by VeRL's key. batch: their rows in TransferQueue, padded. split:
    whether those of a trajectory together weigh as much as one member."""

    leaves: Mapping[str, Sequence[Leaf]]
    batch: KVBatchMeta
    split: bool

    def keys(self) -> list[str]:
        """Of the rows, without padding, in the order of `leaves`."""
        return [row_key(key, number) for key, own in self.leaves.items() for number in range(len(own))]

    def tokens(self) -> int:
        """Of the rows, prefixes included and padding left out: what scoring and training them costs."""
        return sum(tag["seq_len"] for tag in self.batch.tags if not tag.get("is_padding", False))

    def split_weight(self) -> None:
        """Where those of a trajectory split one weight, give each its part of the advantage of the first, which is 0
        where rollout correction has rejected it."""
        if not self.split:
            return
        keys, partition_id = self.keys(), self.batch.partition_id
        data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["advantages", "response_mask"])
        columns = (data[name].unbind() for name in ("advantages", "response_mask"))
        rows = dict(zip(keys, zip(*columns, strict=True), strict=True))
        parts = []
        for key, own in self.leaves.items():
            advantages, mask = rows[row_key(key, 0)]
            part = (advantages * mask).sum() / mask.sum().clamp(min=1) / len(own)
            parts += [part * rows[row_key(key, number)][1] for number in range(len(own))]
        column = torch.nested.as_nested_tensor(parts, layout=torch.jagged)
        fields = TensorDict({"advantages": column}, batch_size=len(keys))
        tq.kv_batch_put(keys=keys, partition_id=partition_id, fields=fields)

    def clear(self) -> None:
        tq.kv_clear(keys=self.batch.keys, partition_id=self.batch.partition_id)


def row_key(key: str, number: int) -> str:
    uid, session, output = key.rsplit("_", 2)
    return f"{uid}_{session}.leaf{number}_{output}"


def put_rows(
    batch: KVBatchMeta,
    score: Callable[[str], float],
    *,
    split: bool,
    workers: int,
    micro_batch: int | None,
    eos: int,
) -> LeafRows | None:
    """Write the leaves of a step's trajectories into TransferQueue; None where there are none.

    Args:
        score: data_source -> score of a leaf.
        split: see `LeafRows`.
        workers: among how many the rows are dealt out. micro_batch: rows of a scoring pass, None where they are cut by
            tokens. eos: fills VeRL's padding rows.

    Raises:
        ValueError: the trajectories come from an agent loop that keeps none, or hold images.
    """
    leaves = _leaves_of(batch)
    if not leaves:
        return None
    rows = _rows(leaves, batch.partition_id, score, split)
    keys = [row_key(key, number) for key, own in leaves.items() for number in range(len(own))]
    tags = [{"status": "leaf", "seq_len": len(row["input_ids"])} for row in rows]
    put = tq.kv_batch_put(
        keys=keys, partition_id=batch.partition_id, fields=list_of_dict_to_tensordict(rows), tags=tags
    )
    put.extra_info = dict(batch.extra_info)
    size = ceil(len(keys) / workers)
    if micro_batch is not None:
        micro_batch = min(micro_batch, size)
        put.extra_info["micro_batch_size_per_gpu"] = micro_batch
        size += -size % micro_batch
    put = upsample_batch_to_divisible_size(put, workers * size, eos)
    workload = calculate_workload(torch.tensor([tag["seq_len"] for tag in put.tags], dtype=torch.int64))
    parts = get_seqlen_balanced_partitions(workload, k_partitions=workers, equal_size=True)
    put.reorder([number for part in parts for number in part])
    return LeafRows(leaves, put, split)


def _leaves_of(batch: KVBatchMeta) -> dict[str, list[Leaf]]:
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    fields = [LEAVES_FIELD, LEAF_SCORES_FIELD]
    # TransferQueue leaves out the fields that not every row has.
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["response_mask", *fields])
    if LEAVES_FIELD not in data:
        raise ValueError(
            "rollback_failed_calls=leaf, but trajectories carry no leaves: expected all of them from the agent loop "
            "tool_agent; check the data's column agent_name and actor_rollout_ref.rollout.agent.default_agent_loop"
        )
    columns = (data[name].unbind() for name in fields)
    found = {key: unpack_leaves(*packed) for key, *packed in zip(keys, *columns, strict=True)}
    return {key: leaves for key, leaves in found.items() if leaves}


def _rows(
    leaves: Mapping[str, Sequence[Leaf]], partition_id: str, score: Callable[[str], float], split: bool
) -> list[dict[str, Any]]:
    names = ["prompts", "responses", "data_source", "multi_modal_inputs", "position_ids"]
    data = tq.kv_batch_get(keys=list(leaves), partition_id=partition_id, select_fields=names)
    sources = [getattr(source, "data", source) for source in data["data_source"]]
    if any(getattr(media, "data", media) for media in data.get("multi_modal_inputs", ())) or any(
        ids.dim() > 1 for ids in data["position_ids"].unbind()
    ):
        raise ValueError("rollback_failed_calls=leaf supports text only, but trajectories hold images or videos")
    columns = data["prompts"].unbind(), data["responses"].unbind(), sources
    return [
        _row(leaf, prompt, response, uid=_group(key, number, split=split), score=score(source))
        for (key, own), prompt, response, source in zip(leaves.items(), *columns, strict=True)
        for number, leaf in enumerate(own)
    ]


def _group(key: str, number: int, *, split: bool) -> str:
    """A uid; a group of its own for a leaf that does not count in its trajectory's."""
    return row_key(key, number) if split and number else key.rsplit("_", 2)[0]


def _row(leaf: Leaf, prompt: torch.Tensor, response: torch.Tensor, *, uid: str, score: float) -> dict[str, Any]:
    """With the fields of VeRL's rows that log-probs and advantages are computed from."""
    response = torch.cat([response[: leaf.start], torch.tensor(leaf.ids, dtype=response.dtype)])
    mask = torch.zeros_like(response)
    mask[leaf.start :] = 1
    scores = torch.zeros(len(response), dtype=torch.float32)
    scores[-1] = score
    ids = torch.cat([prompt, response])
    row = {
        "uid": uid,
        "prompts": prompt,
        "responses": response,
        "input_ids": ids,
        "position_ids": torch.arange(len(ids)),
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": scores,
    }
    if leaf.logprobs is not None:
        row["rollout_log_probs"] = torch.cat([torch.zeros(leaf.start), torch.tensor(leaf.logprobs)])
    return row
