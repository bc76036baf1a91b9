"""The leaves of a mini-batch as further rows of it, so that VeRL's loss is one loss over all tokens.

VALUES_FIELD   float32 (1 + 5 tokens,): how many of the trajectory's leaves are trained on (all, or 0 in padding), then
               each of COLUMNS for the tokens of all its leaves

All workers get the same number of rows, as their collectives must meet: what is missing is filled up with rows of two
tokens of which none is trained on.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from tensordict import NonTensorData, TensorDict
from verl.utils import tensordict_utils as tu

from verl_cleaner.rollout.carried import LEAVES_FIELD, MASK_FIELD, unpack_leaves

VALUES_FIELD = "leaf_values"
COLUMNS: dict[str, float] = {
    "old_log_probs": 0.0,
    "advantages": 0.0,
    "response_mask": 1.0,
    "rollout_is_weights": 1.0,
    "ref_log_prob": 0.0,
}
"""What the loss reads of a response's tokens, and what stands there where it is not in use."""
LEAF_MARK = 2
"""Of a leaf's tokens in MASK_FIELD."""

_SEQUENCE = ("input_ids", "position_ids", "prompts", "responses", "loss_mask")

Row = Mapping[str, torch.Tensor]


def pack_values(leaves: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """leaves: of one trajectory; each holds those of COLUMNS that are in use, (tokens,)."""
    parts = [torch.tensor([float(len(leaves))])]
    for name, default in COLUMNS.items():
        parts += [leaf[name] if name in leaf else torch.full_like(leaf["advantages"], default) for leaf in leaves]
    return torch.cat([part.to(torch.float32) for part in parts])


def leaf_rows(data: TensorDict) -> list[Row]:
    """Of a mini-batch's trajectories, with all columns that a row of it may have."""
    rows: list[Row] = []
    columns = (data[name].unbind() for name in (VALUES_FIELD, LEAVES_FIELD, "prompts", "responses"))
    for values, packed, prompt, response in zip(*columns, strict=True):
        if values[0] == 0:
            continue
        leaves = unpack_leaves(packed)
        total, at = sum(len(leaf.ids) for leaf in leaves), 0
        table = values[1 : 1 + len(COLUMNS) * total].view(len(COLUMNS), total)
        for leaf in leaves:
            own = table[:, at : at + len(leaf.ids)]
            at += len(leaf.ids)
            ids = torch.cat([response[: leaf.start], torch.tensor(leaf.ids, dtype=response.dtype)])
            before = torch.zeros(len(COLUMNS), leaf.start)
            rows.append(_row(prompt, ids, torch.cat([before, own.cpu()], dim=1), start=leaf.start))
    return rows


def with_leaves(data: TensorDict, engine_config: Any, *, group: Any) -> TensorDict:
    """`data` with its leaves as further rows; `data` itself where no worker of `group` has any."""
    rows = leaf_rows(data)
    lengths: list[list[int]] = [[]] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(lengths, [len(row["input_ids"]) for row in rows], group)
    most = max(map(len, lengths))
    if not most:
        return data
    dynamic = tu.get(data, "use_dynamic_bsz", default=engine_config.use_dynamic_bsz)
    size = tu.get(data, "micro_batch_size_per_gpu", default=engine_config.micro_batch_size_per_gpu)
    length = most if dynamic else most + -(len(data) + most) % size
    rows += [_FILLER] * (length - len(rows))
    names = [name for name in (*_SEQUENCE, *COLUMNS, MASK_FIELD) if name in data]
    columns = {}
    for name in names:
        real = list(data[name].unbind())
        further = [row[name].to(real[0]) for row in rows]
        columns[name] = torch.nested.as_nested_tensor([*real, *further], layout=torch.jagged)
    # Settings of the batch; what there is of every row and is no tensor, the loss does not read.
    settings = {key: tu.get(data, key) for key, value in data.items() if isinstance(value, NonTensorData)}
    if (whole := settings.get("global_batch_size")) is not None:
        settings["global_batch_size"] = whole + sum(map(len, lengths))
    if (tokens := settings.get("global_token_num")) is not None:
        # What VeRL computes the utilisation from.
        settings["global_token_num"] = [*tokens, *chain(*lengths)]
    budget = tu.get(data, "max_token_len_per_gpu", default=engine_config.max_token_len_per_gpu)
    if dynamic:
        # VeRL checks the budget of dynamic batches against real rows only.
        settings["max_token_len_per_gpu"] = max(budget, *(len(row["input_ids"]) for row in rows))
    return tu.get_tensordict(columns, settings)


def _row(prompt: torch.Tensor, response: torch.Tensor, values: torch.Tensor, *, start: int) -> Row:
    """values: COLUMNS of every token of the response, of which those from `start` on are the leaf's."""
    ids, mask = torch.cat([prompt, response]), torch.zeros_like(response)
    mask[start:] = 1
    return {
        "input_ids": ids,
        "position_ids": torch.arange(len(ids)),
        "prompts": prompt,
        "responses": response,
        "loss_mask": mask,
        MASK_FIELD: LEAF_MARK * mask,
        **dict(zip(COLUMNS, values, strict=True)),
    }


_FILLER = _row(torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(len(COLUMNS), 1), start=1)
