"""Log-probabilities of given tokens from logits, without a Python loop over rows and without copies of the logits.

Without flash-attn, VeRL 0.9.1 makes one call for each row. With `use_remove_padding` a row is one token, so the
autograd graph holds one gradient of full size for each token. Here chunks of rows are computed in float32, as in
flash-attn's kernel. The forward pass keeps one number a row. The backward pass writes the softmax directly into the
gradient. So the memory beside logits and gradient is one chunk (256 MiB), for any size of vocabulary.
"""

from typing import Any

import torch

# Elements of one chunk's float32 copy: 256 MiB.
_CHUNK_ELEMENTS = 1 << 26


def logprobs_from_logits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return log softmax(logits)[labels].

    Args:
        logits: (..., vocab), any floating dtype.
        labels: (...,), int64.

    Returns:
        (...,) in float32, or float64 for float64 logits. bfloat16 would round a log-prob of -8 by up to 0.03, which is
        more than one update changes it.
    """
    rows = _TokenLogProbs.apply(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    return rows.view(labels.shape)


class _TokenLogProbs(torch.autograd.Function):
    """(rows, vocab), (rows,) -> (rows,)"""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        normalizers = torch.empty(labels.shape, dtype=_wide(logits.dtype), device=logits.device)
        for part in _chunks(logits):
            torch.logsumexp(logits[part].to(normalizers.dtype), dim=-1, out=normalizers[part])
        ctx.save_for_backward(logits, labels, normalizers)
        return logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1).to(normalizers.dtype) - normalizers

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """d log p(label) / d logits = onehot(label) - softmax."""
        logits, labels, normalizers = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for part in _chunks(logits):
            weight = grads[0][part].unsqueeze(-1)
            piece = (logits[part].to(normalizers.dtype) - normalizers[part].unsqueeze(-1)).exp_().mul_(-weight)
            piece.scatter_add_(-1, labels[part].unsqueeze(-1), weight.to(piece.dtype))
            gradient[part] = piece
        return gradient, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunks(logits: torch.Tensor) -> list[slice]:
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    return [slice(start, start + rows) for start in range(0, logits.shape[0], rows)]
