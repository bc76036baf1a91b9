"""Attention over packed sequences without flash-attn: `attn_implementation: varlen`.

VeRL trains on packed rows (`use_remove_padding`): one row holds several sequences, one after the other, and position
ids tell them apart. flash-attn computes attention inside each sequence only. PyTorch's `sdpa` computes it over the
whole row and masks the rest; its cost grows with the square of the row's length. PyTorch has flash-attn's kernel as
`torch.nn.attention.varlen`, for GPUs and half precision. This module registers it with transformers. It needs no mask,
so the model builds none.
"""

from typing import Any

import torch

NAME = "varlen"


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each packed sequence, with transformers' signature.

    Args:
        query: (1, heads, tokens, head_dim), float16 or bfloat16.
        key, value: (1, key-value heads, tokens, head_dim).
        position_ids: (1, tokens); a sequence begins at each 0.
        sliding_window: how many tokens a token attends to, itself included; None = all before it.

    Returns:
        (1, tokens, heads, head_dim), and no attention weights.

    Raises:
        ValueError: the input is no packed row in half precision, or the model needs dropout, capped scores (`softcap`,
            Gemma 2) or attention sinks (`s_aux`, gpt-oss), which the kernel does not compute.
    """
    from torch.nn.attention.varlen import varlen_attn

    for name, given in ("softcap", softcap), ("s_aux", s_aux):
        if given is not None:
            raise ValueError(
                f"attn_implementation={NAME} does not compute {name}, which this model needs (softcap: capped scores, "
                "as Gemma 2; s_aux: attention sinks, as gpt-oss); install flash-attn, or use sdpa or eager, whichever "
                "the model has"
            )
    if attention_mask is not None or position_ids is None or query.shape[0] != 1:
        raise ValueError(
            f"attn_implementation={NAME} takes packed rows, got a batch of {query.shape[0]} with "
            f"{'a' if attention_mask is not None else 'no'} mask; set actor_rollout_ref.model.use_remove_padding=True, "
            "or attn_implementation=sdpa"
        )
    if query.dtype not in (torch.float16, torch.bfloat16) or dropout:
        raise ValueError(
            f"attn_implementation={NAME} computes in float16 or bfloat16 without dropout, got {query.dtype} and "
            f"dropout {dropout}; use attn_implementation=sdpa"
        )
    if position_ids.ndim != 2:
        raise ValueError(
            f"attn_implementation={NAME} takes position ids of shape (1, tokens), got {tuple(position_ids.shape)}, "
            "as of a model that takes images; use attn_implementation=sdpa"
        )
    bounds, longest = _bounds(position_ids)
    before = -1 if sliding_window is None else sliding_window - 1
    output = varlen_attn(
        *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(before, 0),
    )
    return output.unsqueeze(0), None


def _bounds(position_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(start of each sequence and end of the last one, length of the longest).

    All layers get the same tensor of position ids. The result is kept on it, so that the host waits for the GPU only
    once.
    """
    found: tuple[torch.Tensor, int] | None = getattr(position_ids, "_cleaner_bounds", None)
    if found is None:
        starts = (position_ids[0] == 0).nonzero().flatten()
        bounds = torch.cat([starts, starts.new_tensor([position_ids.shape[1]])]).to(torch.int32)
        if len(starts) == 0 or starts[0] != 0:
            raise ValueError(f"packed position ids must begin with 0, got {position_ids[0, :8].tolist()} …")
        found = bounds, int(bounds.diff().max())
        position_ids._cleaner_bounds = found  # type: ignore[attr-defined]
    return found


def register(modeling_utils: Any) -> None:
    """Register the kernel with transformers. modeling_utils: `transformers.modeling_utils`."""
    modeling_utils.AttentionInterface.register(NAME, varlen_attention)
