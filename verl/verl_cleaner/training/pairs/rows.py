"""The two token sequences of each pair of a mini-batch, as a batch that VeRL's engine takes.

Row 2i is the prefix and the repaired call of pair i, row 2i + 1 the prefix and the failed call. The call ends the row;
`loss_mask` is 1 on its tokens. All workers must have the same number of rows, because each row takes part in collective
operations. Missing rows are filled with rows of two tokens, whose loss mask is 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from verl_cleaner.rollout.carried import PAIRS_FIELD, unpack
from verl_cleaner.training.pairs.grant import GRANTED_FIELD

Row = tuple[torch.Tensor, int]
"""(token ids of a sequence, how many at its end belong to the call)."""

_FILLER: Row = (torch.zeros(2, dtype=torch.int64), 0)


def pair_rows(data: TensorDict) -> list[Row]:
    """Two rows for each pair of a mini-batch that is trained on; none where the batch has no `GRANTED_FIELD`."""
    rows: list[Row] = []
    if GRANTED_FIELD not in data:
        return rows
    granted = data[GRANTED_FIELD].tolist()
    columns = (data[name].unbind() for name in (PAIRS_FIELD, "prompts", "responses"))
    for count, packed, prompt, response in zip(granted, *columns, strict=True):
        for pair in unpack(packed)[:count] if count else ():
            failed = torch.tensor(pair.failed, dtype=response.dtype)
            rows.append((torch.cat([prompt, response[: pair.end]]), pair.end - pair.start))
            rows.append((torch.cat([prompt, response[: pair.start], failed]), len(failed)))
    return rows


def to_batch(rows: Sequence[Row], data: TensorDict, engine_config: Any, *, length: int) -> TensorDict:
    """A batch of `length` rows, cut into micro-batches as `data` is.

    Where micro-batches have a fixed size, rows are added until the number is a multiple of it. A row may be longer than
    the token budget of dynamic batches, because VeRL checks the budget against real rows only; the budget then grows.
    """
    dynamic = tu.get(data, "use_dynamic_bsz", default=engine_config.use_dynamic_bsz)
    budget = tu.get(data, "max_token_len_per_gpu", default=engine_config.max_token_len_per_gpu)
    size = tu.get(data, "micro_batch_size_per_gpu", default=engine_config.micro_batch_size_per_gpu)
    if not dynamic:
        size = min(size, length)
        length += -length % size
    rows = [*rows, *[_FILLER] * (length - len(rows))]
    masks = [torch.arange(len(ids)) >= len(ids) - call for ids, call in rows]
    settings = {
        "use_dynamic_bsz": dynamic,
        "max_token_len_per_gpu": max(budget or 0, max(len(ids) for ids, _ in rows)),
        "micro_batch_size_per_gpu": size,
        "use_remove_padding": tu.get(data, "use_remove_padding", default=engine_config.use_remove_padding),
        "use_fused_kernels": tu.get(data, "use_fused_kernels", default=engine_config.use_fused_kernels),
        "temperature": tu.get(data, "temperature"),
    }
    columns = {
        "input_ids": [ids for ids, _ in rows],
        "position_ids": [torch.arange(len(ids)) for ids, _ in rows],
        "loss_mask": [mask.to(torch.int64) for mask in masks],
    }
    nested = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in columns.items()}
    return tu.get_tensordict(nested, settings)


def call_means(log_probs: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """Mean log-prob of each row's call, 0 for fillers: (rows,).

    Args:
        log_probs: jagged (rows, tokens); entry j of a row belongs to its token j + 1, as VeRL's engine returns them.
        loss_mask: jagged (rows, tokens), 1 on the call.
    """
    lengths = loss_mask.offsets().diff().tolist()
    parts = zip(log_probs.values().split(lengths), loss_mask.values().split(lengths), strict=True)
    return torch.stack([(row[:-1] * mask[1:].to(row)).sum() / mask.sum().clamp(min=1) for row, mask in parts])
