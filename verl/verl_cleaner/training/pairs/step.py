"""The second term of the actor's loss: its gradient is weighted, bounded by the policy gradient, and added to it.

`verl_cleaner.training.actor` calls it in each optimizer step.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch.distributed import ReduceOp
from verl.utils.device import get_device_id
from verl.workers.engine_workers import TrainingWorker

from verl_cleaner.training.pairs.config import DpoConfig, Reference
from verl_cleaner.training.pairs.rows import call_means, pair_rows, to_batch

_PREFIX = "dpo_"
_NAMES = ("pairs", "correct", "margin", "loss", "scale", "gradient_share")


@dataclass(frozen=True, slots=True)
class PairTerm:
    """reference: the engine of the reference policy, None where it has none of its own."""

    dpo: DpoConfig
    reference: Any

    def prepare(self, worker: TrainingWorker, data: TensorDict) -> "PairGradient | None":
        """Before VeRL trains on this worker's part of a mini-batch; the weights are loaded. None where no worker has
        pairs. A worker without pairs takes part in the passes of the others, which are collective."""
        rows = pair_rows(data)
        engine, group = worker.engine, worker.engine.get_data_parallel_group()
        most = torch.tensor(len(rows), device=get_device_id())
        torch.distributed.all_reduce(most, op=ReduceOp.MAX, group=group)
        if not most:
            return None
        batch = to_batch(rows, data, worker.engine_config, length=int(most))
        margins = self._margins(engine, batch)[: len(rows) // 2]
        weights = pair_weights(margins, len(batch), beta=self.dpo.dpo_beta, group=group)
        return PairGradient(engine, batch, weights, self.dpo.dpo_max_adjustment_ratio)

    def _margins(self, engine: Any, batch: TensorDict) -> torch.Tensor:
        """(pairs,): m - m_ref. The actor's weights are already on the device, because VeRL is about to train."""
        means = means_of(engine, batch, engine.eval_mode(disable_auto_offload=True))
        if self.dpo.dpo_reference == Reference.REF:
            if self.reference is not None:
                means = means - means_of(self.reference, batch, self.reference.eval_mode())
            else:
                with engine.disable_adapter():
                    means = means - means_of(engine, batch, engine.eval_mode(disable_auto_offload=True))
        return means[0::2] - means[1::2]


@dataclass(slots=True)
class PairGradient:
    """Of one optimizer step."""

    engine: Any
    batch: TensorDict
    weights: "PairWeights"
    max_ratio: float
    added: tuple[float, float] | None = field(default=None, init=False)
    """(λ, norm of the added gradient / norm of the policy gradient)."""

    def add(self) -> None:
        """To the gradient that the engine has accumulated; called once, after the last micro-batch."""
        self.added = add_pair_gradient(self.engine, self.batch, self.weights.of_rows, max_ratio=self.max_ratio)

    def metrics(self) -> dict[str, float]:
        """After `add`. The trainer gets them as `actor/NAME`, averaged over mini-batches."""
        weights = self.weights
        values = (weights.pairs, weights.correct, weights.margin, weights.loss, *(self.added or ()))
        # Where a float16 gradient overflowed, VeRL skips the step, and there is no λ.
        return {f"{_PREFIX}{name}": value for name, value in zip(_NAMES, values, strict=True) if math.isfinite(value)}


def finish_dpo_metrics(metrics: dict[str, Any]) -> None:
    """Turn VeRL's means over mini-batches into the `dpo/` metrics of a step, in place. Without pairs there are none."""
    values = {name: metrics.pop(f"actor/{_PREFIX}{name}", None) for name in _NAMES}
    pairs = values["pairs"]
    if not pairs:
        return
    metrics |= {
        "dpo/pair_accuracy": values["correct"] / pairs,
        "dpo/margin": values["margin"] / pairs,
        "dpo/loss": values["loss"] / pairs,
    }
    metrics |= {f"dpo/{name}": values[name] for name in ("scale", "gradient_share") if values[name] is not None}


@dataclass(frozen=True, slots=True)
class PairWeights:
    """of_rows: (rows,), the weight of each row's mean log-prob; positive for repaired calls, negative for failed ones.

    The other fields are about the pairs of all workers. pairs: their number. correct: how many have m > m_ref. margin:
    the sum of m - m_ref. loss: the sum of the losses.
    """

    of_rows: torch.Tensor
    pairs: float
    correct: float
    margin: float
    loss: float


def pair_weights(margins: torch.Tensor, rows: int, *, beta: float, group: Any = None) -> PairWeights:
    """margins: (pairs,), m - m_ref of this worker's pairs. rows: how many its batch has, fillers included.

    The mean is over the pairs of all workers of `group`; it does not depend on which worker has how many.
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
    """(rows,) on the CPU: mean log-prob of each row's call under the weights of `engine`. mode: the engine's mode."""
    with mode:
        output = engine.infer_batch(batch)
    return call_means(output["model_output"]["log_probs"].cpu(), batch["loss_mask"])


def weighted_loss(
    model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss for VeRL's engine. The engine averages over workers, so the loss is multiplied by their number."""
    means = call_means(model_output["log_probs"], data["loss_mask"])
    return -(data["weight"] * means).sum() * data["dp_size"], {}


def add_pair_gradient(
    engine: Any, batch: TensorDict, weights: torch.Tensor, *, max_ratio: float
) -> tuple[float, float]:
    """Add the pairs' gradient to the one that the engine has accumulated.

    Returns:
        (λ, norm of the added gradient / norm of the policy gradient); NaN where a norm is not finite.
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
    # A gradient that is not finite stays so, and VeRL then skips the step.
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
    """The norm over the shards of all workers. Replicated shards count several times, in all norms alike."""
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients if g is not None]
    square = torch.zeros((), dtype=torch.float64)
    for gradient in local:
        square += torch.linalg.vector_norm(gradient, dtype=torch.float32).double().cpu() ** 2
    square = square.to(get_device_id())
    torch.distributed.all_reduce(square, op=ReduceOp.SUM)
    return float(square.sqrt())
