"""What TransferQueue holds of a batch, read as plain Python values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl_cleaner.records import trajectories as trajectory_dump
from verl_cleaner.records.token_text import TokenTexts
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD
from verl_cleaner.saar.metrics import Record

ExtraFields = Mapping[str, Mapping[str, Any]]
"""By VeRL's key of the trajectory, what the agent loop and the reward function said beside the tokens."""


def extra_fields(batch: KVBatchMeta) -> ExtraFields:
    """Of all trajectories but padding, in the batch's order."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    return {key: getattr(value, "data", value) for key, value in zip(keys, data["extra_fields"], strict=True)}


def records_of(extra: ExtraFields) -> dict[str, Record]:
    """The rollback records among them; trajectories of other agent loops have none."""
    return {key: fields[RECORD_FIELD] for key, fields in extra.items() if RECORD_FIELD in fields}


def scores_of(keys: Iterable[str], partition_id: str) -> dict[str, float]:
    """By key, the reward that the trainer uses (VeRL's `rm_scores`), summed over tokens."""
    keys = list(keys)
    scores = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["rm_scores"])["rm_scores"]
    return {key: float(row.sum()) for key, row in zip(keys, unbound(scores), strict=True)}


def token_columns(keys: Iterable[str], partition_id: str, texts: TokenTexts) -> dict[str, dict[str, Any]]:
    """By key, what the batch holds of every token, as in `trajectory_dump.TOKEN_COLUMNS`."""
    keys = list(keys)
    numbers = {"response_mask": "mask"} | {name: name for name in trajectory_dump.SCORE_COLUMNS}
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["prompts", "responses", *numbers])
    names = {name: column for name, column in numbers.items() if name in data}
    fields = {name: unbound(data[name]) for name in ("prompts", "responses", *names)}
    found = {}
    for i, key in enumerate(keys):
        columns: dict[str, Any] = {column: fields[name][i].tolist() for name, column in names.items()}
        columns["prompt"] = "".join(texts(fields["prompts"][i].tolist()))
        columns["tokens"] = texts(fields["responses"][i].tolist())
        found[key] = columns
    return found


def unbound(column: Any) -> Sequence[Any]:
    """The rows of a batch's column, tensor or not. A nested tensor is taken apart as a whole at every `column[i]`."""
    return column.unbind() if isinstance(column, torch.Tensor) else list(column)
