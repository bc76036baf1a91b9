"""KL and clip fraction on overwritten tokens, on leaves and on the others: whether training on them is stable.

VeRL's PPO loss is wrapped (`marked_loss`) to sum over the kinds of tokens by the mask that came with the batch
(`verl_cleaner.rollout.carried`, `verl_cleaner.training.credit.minibatch`); the trainer divides (`finish_metrics`), so
that micro-batches without any do not count.
"""

from typing import Any

import torch
from tensordict import TensorDict
from verl.utils.metric import AggregationType, Metric
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from verl_cleaner.rollout.carried import MASK_FIELD
from verl_cleaner.training.credit.minibatch import LEAF_MARK

_PREFIX = "actor/"
_KINDS = {"sampled": 0, "overwritten": 1, "leaf": LEAF_MARK}
"""Kind of token: what stands in the mask."""


def marked_loss(
    config: ActorConfig, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """VeRL's `ppo_loss` with sums over each kind of trained tokens among its metrics."""
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    if MASK_FIELD not in data:  # no trajectory of the batch came from our loop
        return loss, metrics
    log_prob = no_padding_2_padding(model_output["log_probs"], data).detach()
    fields = data.select("response_mask", "old_log_probs", "advantages", MASK_FIELD).to_padded_tensor()
    sums = token_sums(
        log_prob,
        fields["old_log_probs"],
        fields["advantages"],
        trained=fields["response_mask"].bool(),
        # VeRL's padding rows copy the mask of a real row.
        marks=fields[MASK_FIELD][:, : log_prob.shape[1]],
        clip=(_first(config.clip_ratio_low, config.clip_ratio), _first(config.clip_ratio_high, config.clip_ratio)),
    )
    return loss, metrics | {key: Metric(AggregationType.SUM, value) for key, value in sums.items()}


def token_sums(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantages: torch.Tensor,
    *,
    trained: torch.Tensor,
    marks: torch.Tensor,
    clip: tuple[float, float],
) -> dict[str, float]:
    """Tokens, the sum of old - new log-prob, and tokens whose gradient is clipped. Arguments: (batch, tokens)."""
    kl = old_log_prob - log_prob
    ratio = (-kl).exp()
    clipped = ((advantages > 0) & (ratio > 1 + clip[1])) | ((advantages < 0) & (ratio < 1 - clip[0]))
    sums = {}
    for kind, mark in _KINDS.items():
        mask = trained & (marks == mark)
        sums[f"{kind}_tokens"] = float(mask.sum())
        sums[f"{kind}_kl"] = float(kl[mask].sum())
        sums[f"{kind}_clipfrac"] = float(clipped[mask].sum())
    return sums


def finish_metrics(metrics: dict[str, Any]) -> None:
    """Sums into means, where there are tokens; in place."""
    for kind in _KINDS:
        tokens = metrics.pop(f"{_PREFIX}{kind}_tokens", None)
        for name in ("kl", "clipfrac"):
            total = metrics.pop(f"{_PREFIX}{kind}_{name}", None)
            if tokens and total is not None:
                metrics[f"leaves/{name}" if kind == "leaf" else f"{_PREFIX}{kind}_{name}"] = total / tokens


def _first(value: float | None, default: float) -> float:
    return default if value is None else value
