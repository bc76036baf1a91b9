"""What a request asks for, and one exact draw per request.

In this order: temperature, top-k, top-p, then one draw from the renormalised distribution. Each
request has its own random generator, so its tokens do not depend on the other requests of the batch (up to rounding in
the matrix products). The log-probs that are returned are those of the distribution that was drawn from.
"""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. `temperature` 0 is greedy; `top_k` -1 and `top_p` 1 mean no limit."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop_token_ids: frozenset[int] = frozenset()
    seed: int = 0
    prompt_logprobs: bool = False

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < -1 or self.top_k == 0:
            raise ValueError(f"top_k must be -1 (off) or >= 1, got {self.top_k}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, got {self.max_tokens}")


@dataclass(eq=False, slots=True)
class Request:
    """One generation. The batcher fills in `token_ids`, `logprobs` (nats, one a token) and `finish_reason` ("stop",
    "length", "abort"). `prompt_logprobs[i]` belongs to prompt token i + 1. `state` is the state of the generator of an
    aborted request whose rest this one is."""

    prompt_ids: list[int]
    params: SamplingParams
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    state: torch.Tensor | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)


def sample(logits: torch.Tensor, requests: list[Request]) -> tuple[list[int], list[float]]:
    """Draw one token a row. logits: (rows, vocab), float32."""
    params = [request.params for request in requests]
    temperature = torch.tensor([p.temperature or 1.0 for p in params])
    logits = logits / temperature[:, None]
    if any(p.top_k > 0 or p.top_p < 1 for p in params):
        logits = _truncate(logits, params)
    logprobs = logits.log_softmax(-1)
    uniform = torch.stack([torch.rand((), generator=r.generator, dtype=torch.float64) for r in requests])
    cumulative = logprobs.double().exp().cumsum(-1)
    tokens = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True).squeeze(-1)
    greedy = torch.tensor([p.temperature == 0 for p in params])
    tokens = torch.where(greedy, logprobs.argmax(-1), tokens.clamp_max(logits.shape[-1] - 1))
    return tokens.tolist(), logprobs.gather(-1, tokens[:, None]).squeeze(-1).tolist()


def _truncate(logits: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    """Mask the tokens that top-k and top-p exclude. The most likely token is never masked."""
    ordered, order = logits.sort(-1, descending=True)
    rank = torch.arange(logits.shape[-1])
    top_k = torch.tensor([p.top_k if p.top_k > 0 else logits.shape[-1] for p in params])
    ordered = ordered.masked_fill(rank >= top_k[:, None], float("-inf"))
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    top_p = torch.tensor([p.top_p for p in params])
    ordered = ordered.masked_fill((before >= top_p[:, None]) & (rank > 0), float("-inf"))
    return torch.empty_like(logits).scatter(-1, order, ordered)
