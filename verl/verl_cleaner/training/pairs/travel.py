"""How pairs travel: as one more tensor of the trajectory, so that there is no second rollout output.

PAIRS_FIELD    int64 (1 + 3 pairs + ids,): number of pairs; start, end and failed tokens of each; all failed ids
GRANTED_FIELD  int64 (): how many of them, the first ones, are to be trained on, as decided by who sees whole groups

The first is never empty and says its own length, so it survives whatever VeRL does to a batch: jagged or padded, in any
order, in parts. VeRL's padding rows copy it from a real one; they are granted none.
"""

from collections.abc import Sequence

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl_cleaner.saar.pair import Pair, share_out

PAIRS_FIELD = "negative_pairs"
GRANTED_FIELD = "granted_pairs"


def pack(pairs: Sequence[Pair]) -> torch.Tensor:
    head = [value for pair in pairs for value in (pair.start, pair.end, len(pair.failed))]
    return torch.tensor([len(pairs), *head, *(token for pair in pairs for token in pair.failed)], dtype=torch.int64)


def unpack(packed: torch.Tensor) -> list[Pair]:
    """Inverse of `pack`; what follows the last pair is ignored."""
    count, *rest = packed.tolist()
    at, pairs = 3 * count, []
    for start, end, size in zip(*(rest[i : 3 * count : 3] for i in range(3)), strict=True):
        pairs.append(Pair(start, end, tuple(rest[at : at + size])))
        at += size
    return pairs


def grant_pairs(batch: KVBatchMeta, *, limit: int, seed: Sequence[object]) -> tuple[KVBatchMeta, int]:
    """Write into the batch which pairs are trained on, at most `limit` a group; returns the batch and how many.

    Raises:
        ValueError: the trajectories come from an agent loop that keeps none.
    """
    if PAIRS_FIELD not in (batch.fields or ()):
        raise ValueError(
            "save_negative_samples=True, but trajectories carry no pairs: expected all of them from the agent loop "
            "tool_agent; check the data's column agent_name and actor_rollout_ref.rollout.agent.default_agent_loop"
        )
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    stored = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=[PAIRS_FIELD])[PAIRS_FIELD]
    available = {key: int(packed[0]) for key, packed in zip(keys, stored.unbind(), strict=True)}
    granted = share_out(available, limit=limit, seed=seed)
    counts = torch.tensor([granted.get(key, 0) for key in batch.keys], dtype=torch.int64)
    fields = TensorDict({GRANTED_FIELD: counts}, batch_size=len(batch.keys))
    # A batch names the fields that its workers get.
    batch = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
    return batch, sum(granted.values())
