"""The second term of the actor's loss: `verl_cleaner.training.actor` adds its gradient."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed import ReduceOp
from verl.utils.device import get_device_id
from verl.workers.engine_workers import TrainingWorker

from verl_cleaner.training.pairs.config import DpoConfig, Reference
from verl_cleaner.training.pairs.rows import pair_rows, to_batch
from verl_cleaner.training.pairs.step import PairWeights, add_pair_gradient, means_of, pair_weights

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
    weights: PairWeights
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
