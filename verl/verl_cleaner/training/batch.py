"""What TransferQueue holds of a batch, read as plain Python values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl_cleaner.formats.base import ToolFormat
from verl_cleaner.formats.own_turns import of_tokens
from verl_cleaner.records.token_text import token_texts
from verl_cleaner.records.trajectories import SCORE_COLUMNS
from verl_cleaner.saar.record import RECORD_FIELD, Record

ExtraFields = Mapping[str, Mapping[str, Any]]
"""By VeRL's key of the trajectory, what the agent loop and the reward function said beside the tokens."""

OutputColumns = Mapping[str, Mapping[str, Any]]
"""By key, columns of `records.trajectories.Trajectory`, and `data_source` and `extra_info` of the data row."""


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

    score: the reward that the trainer uses (VeRL's `rm_scores`, after shaping), summed over tokens. A reward model that
    shares the GPUs scores after validation batches are read; there the score is None.
    """
    keys = list(keys)
    names = ("rm_scores", "num_turns", "data_source", "extra_info")
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=list(names))
    fields = {name: unbound(data[name]) for name in names if name in data}
    found = {}
    for i, key in enumerate(keys):
        row = {name: getattr(column[i], "data", column[i]) for name, column in fields.items()}
        scores = row.get("rm_scores")
        found[key] = {
            # One score a token of the response.
            "response_tokens": None if scores is None else len(scores),
            "score": None if scores is None else float(scores.sum()),
            "turns": int(row["num_turns"]),
            "data_source": row.get("data_source"),
            "extra_info": row.get("extra_info"),
        }
    return found


def text_columns(
    keys: Iterable[str], partition_id: str, tokenizer: Any, tool_format: ToolFormat | None
) -> dict[str, dict[str, Any]]:
    """By key, `records.trajectories.TEXT_COLUMNS`: the texts without special tokens, and the policy's own words."""
    keys = list(keys)
    names = ["prompts", "responses", "response_mask"]
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=names)
    prompts, responses, masks = (unbound(data[name]) for name in names)
    texts = token_texts(tokenizer)
    found = {}
    for key, prompt, response, mask in zip(keys, prompts, responses, masks, strict=True):
        tokens = texts(response.tolist())
        found[key] = {
            "prompt_text": tokenizer.decode(prompt, skip_special_tokens=True),
            "response_text": tokenizer.decode(response, skip_special_tokens=True),
            "policy_turns": of_tokens(tokens, mask.tolist(), tool_format, end=tokenizer.eos_token),
        }
    return found


def token_columns(keys: Iterable[str], partition_id: str, tokenizer: Any) -> dict[str, dict[str, Any]]:
    """By key, what the batch holds of every token, as in `records.trajectories.TOKEN_COLUMNS`."""
    keys, texts = list(keys), token_texts(tokenizer)
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
