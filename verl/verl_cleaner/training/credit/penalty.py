"""A penalty on failed calls: the advantage of their tokens is lowered by a constant. Works with rollback off.

The plain competitor of leaves. It needs the constant, and it can teach not to call at all.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl_cleaner.saar.record import RECORD_FIELD, standing_failures
from verl_cleaner.saar.values import expect, is_number

KEY = "failed_call_penalty"
FIELDS = ["advantages", "response_mask", "extra_fields"]


def failed_call_penalty(algorithm: Mapping[str, Any]) -> float:
    """The key in an `algorithm` section; 0 leaves advantages as they are. Raises ValueError for a bad value."""
    penalty = algorithm.get(KEY, 0.0)
    expect(is_number(penalty) and isfinite(penalty) and penalty >= 0, KEY, penalty, "a number >= 0")
    return float(penalty)


def charge_failed_calls(batch: KVBatchMeta, penalty: float) -> tuple[KVBatchMeta, dict[str, float]]:
    """Lower the advantages in TransferQueue; returns the batch and metrics."""
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=FIELDS)
    columns = data["advantages"].unbind(), data["response_mask"].unbind(), data["extra_fields"], batch.tags
    charged, tokens = [], 0.0
    for advantages, mask, fields, tag in zip(*columns, strict=True):
        failed = torch.zeros_like(advantages)
        if not tag.get("is_padding", False):
            for start, end in _failures(getattr(fields, "data", fields)):
                failed[start:end] = mask[start:end].to(failed)
        charged.append(advantages - penalty * failed)
        tokens += float(failed.sum())
    nested = torch.nested.as_nested_tensor(charged, layout=torch.jagged)
    fields = TensorDict({"advantages": nested}, batch_size=len(batch.keys))
    batch = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
    return batch, {f"{KEY}/tokens": tokens}


def _failures(extra_fields: dict[str, Any]) -> list[tuple[int, int]]:
    """Raises ValueError: another agent loop says nothing of its calls."""
    if RECORD_FIELD not in extra_fields:
        raise ValueError(
            f"algorithm.{KEY}, but trajectories carry no record of their calls: expected all of them from "
            "the agent loop tool_agent; check the data's column agent_name and "
            "actor_rollout_ref.rollout.agent.default_agent_loop"
        )
    return standing_failures(extra_fields[RECORD_FIELD])
