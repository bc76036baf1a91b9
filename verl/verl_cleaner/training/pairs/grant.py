"""Choose which pairs are trained on, and write that into the batch. The trainer does this, as it sees whole groups.

GRANTED_FIELD  int64 (): n, where the first n pairs of the trajectory (`verl_cleaner.rollout.carried`) are trained on

VeRL's padding rows copy a real trajectory with its pairs. Their n is 0.
"""

from collections.abc import Sequence

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl_cleaner.rollout.carried import PAIRS_FIELD
from verl_cleaner.saar.pair import share_out

GRANTED_FIELD = "granted_pairs"


def grant_pairs(batch: KVBatchMeta, *, limit: int, seed: Sequence[object]) -> tuple[KVBatchMeta, int]:
    """Write into the batch which pairs are trained on, at most `limit` a group. Returns the batch and their number.

    Raises:
        ValueError: the trajectories come from an agent loop that keeps no pairs.
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
    # Workers get only the fields that the batch names; this call adds the field to it.
    batch = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
    return batch, sum(granted.values())
