"""What TransferQueue holds of a batch, read as plain Python values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl_cleaner.records.token_text import TokenTexts
from verl_cleaner.records.trajectories import SCORE_COLUMNS
from verl_cleaner.saar.metrics import Record
from verl_cleaner.saar.record import RECORD_FIELD

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


def output_columns(keys: Iterable[str], partition_id: str) -> dict[str, dict[str, Any]]:
    """By key, what VeRL knows of every output beside its tokens, named as `records.trajectories.of_output` takes it.

    score: the reward that the trainer uses (VeRL's `rm_scores`, after shaping), summed over tokens.
    """
    keys = list(keys)
    names = ("responses", "rm_scores", "num_turns", "data_source", "extra_info")
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=list(names))
    fields = {name: unbound(data[name]) for name in names if name in data}
    found = {}
    for i, key in enumerate(keys):
        row = {name: getattr(column[i], "data", column[i]) for name, column in fields.items()}
        found[key] = {
            "response_tokens": len(row["responses"]),
            # A reward model that shares the GPUs scores later.
            "score": float(row["rm_scores"].sum()) if "rm_scores" in row else None,
            "turns": int(row["num_turns"]),
            "data_source": row.get("data_source"),
            "extra_info": row.get("extra_info"),
        }
    return found


def text_columns(keys: Iterable[str], partition_id: str, tokenizer: Any) -> dict[str, dict[str, str]]:
    """By key, the texts without special tokens."""
    keys = list(keys)
    names = {"prompts": "prompt_text", "responses": "response_text"}
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=list(names))
    texts = {
        column: [tokenizer.decode(ids, skip_special_tokens=True) for ids in unbound(data[name])]
        for name, column in names.items()
    }
    return {key: {column: values[i] for column, values in texts.items()} for i, key in enumerate(keys)}


def token_columns(keys: Iterable[str], partition_id: str, texts: TokenTexts) -> dict[str, dict[str, Any]]:
    """By key, what the batch holds of every token, as in `records.trajectories.TOKEN_COLUMNS`."""
    keys = list(keys)
    numbers = {"response_mask": "mask"} | {name: name for name in SCORE_COLUMNS}
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
