"""The pairs' gradient of one optimizer step: weighed, bounded by the policy's, added to it."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch.distributed import ReduceOp
from verl.utils.device import get_device_id

from verl_cleaner.training.pairs.rows import call_means


@dataclass(frozen=True, slots=True)
class PairWeights:
    """of_rows: what each row's mean log-prob is worth, (rows,), + for repaired and - for failed calls.

    The rest is of the pairs of all workers: their number, how many have m > m_ref, sums of m - m_ref and of the loss.
    """

    of_rows: torch.Tensor
    pairs: float
    correct: float
    margin: float
    loss: float


def pair_weights(margins: torch.Tensor, rows: int, *, beta: float, group: Any = None) -> PairWeights:
    """margins: m - m_ref of this worker's pairs, (pairs,). rows: those of its batch, fillers included.

    The mean is over the pairs of all workers of `group`, however they are spread.
    """
    losses = -F.logsigmoid(beta * margins)
    sums = torch.stack([torch.ones_like(margins), (margins > 0).float(), margins, losses]).sum(1).to(get_device_id())
    torch.distributed.all_reduce(sums, op=ReduceOp.SUM, group=group)
    total = sums[0].item()
    weight = beta * torch.sigmoid(-beta * margins) / total
    of_rows = torch.zeros(rows)
    of_rows[: 2 * len(margins)] = torch.stack([weight, -weight], dim=1).flatten()
    return PairWeights(of_rows, *sums.tolist())


def means_of(engine: Any, batch: TensorDict, mode: AbstractContextManager[Any]) -> torch.Tensor:
    """Mean log-prob of each row's call under the engine's weights, (rows,), on the CPU. mode: the engine's for it."""
    with mode:
        output = engine.infer_batch(batch)
    return call_means(output["model_output"]["log_probs"].cpu(), batch["loss_mask"])


def weighted_loss(
    model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """A loss for VeRL's engine, which averages over workers: hence times their number."""
    means = call_means(model_output["log_probs"], data["loss_mask"])
    return -(data["weight"] * means).sum() * data["dp_size"], {}


def add_pair_gradient(
    engine: Any, batch: TensorDict, weights: torch.Tensor, *, max_ratio: float
) -> tuple[float, float]:
    """Add the pairs' gradient to the one that the engine has accumulated.

    Returns:
        λ, and the norm of what was added over the norm of what was there; NaN where a norm is not finite.
    """
    parameters = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
    policy = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    batch["weight"] = weights
    engine.forward_backward_batch(batch, weighted_loss)
    pairs = [parameter.grad for parameter in parameters]
    policy_norm, pairs_norm = (global_norm(gradients) for gradients in (policy, pairs))
    finite = math.isfinite(policy_norm) and math.isfinite(pairs_norm)
    # Not finite remains not finite, and VeRL leaves the step out.
    scale = min(1.0, max_ratio * policy_norm / pairs_norm) if pairs_norm and finite else 1.0
    for parameter, first, second in zip(parameters, policy, pairs, strict=True):
        if second is not None:
            second.mul_(scale)
            parameter.grad = second if first is None else first.add_(second)
        else:
            parameter.grad = first
    if not finite:
        return math.nan, math.nan
    return scale, scale * pairs_norm / policy_norm if policy_norm else 0.0


def global_norm(gradients: Sequence[torch.Tensor | None]) -> float:
    """Over the shards of all workers. Where shards are replicated, replicas count as often in every norm."""
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients if g is not None]
    square = torch.zeros((), dtype=torch.float64)
    for gradient in local:
        square += torch.linalg.vector_norm(gradient, dtype=torch.float32).double().cpu() ** 2
    square = square.to(get_device_id())
    torch.distributed.all_reduce(square, op=ReduceOp.SUM)
    return float(square.sqrt())
