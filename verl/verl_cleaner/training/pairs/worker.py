"""VeRL's actor worker, whose training steps take the pairs of their mini-batch in."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed import ReduceOp
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from verl_cleaner.training.pairs.config import DpoConfig, Reference
from verl_cleaner.training.pairs.rows import pair_rows, to_batch
from verl_cleaner.training.pairs.step import add_pair_gradient, means_of, pair_weights

_PREFIX = "dpo_"
_NAMES = ("pairs", "correct", "margin", "loss", "scale", "gradient_share")


class PairTrainingWorker(TrainingWorker):
    """dpo: set before the first step. reference: the engine of the reference policy, if it has one of its own."""

    dpo: DpoConfig
    reference: Any = None

    def train_batch(self, data: TensorDict) -> TensorDict | None:
        """One optimizer step."""
        rows = pair_rows(data)
        engine, group = self.engine, self.engine.get_data_parallel_group()
        most = torch.tensor(len(rows), device=get_device_id())
        torch.distributed.all_reduce(most, op=ReduceOp.MAX, group=group)
        if not most:
            return super().train_batch(data)
        batch = to_batch(rows, data, self.engine_config, length=int(most))
        margins = self._margins(batch)[: len(rows) // 2]
        weights = pair_weights(margins, len(batch), beta=self.dpo.dpo_beta, group=group)
        added: list[float] = []

        def add() -> None:
            ratio = self.dpo.dpo_max_adjustment_ratio
            added[:] = add_pair_gradient(engine, batch, weights.of_rows, max_ratio=ratio)

        with _before_step(engine, add):
            output = super().train_batch(data)
        if output is not None:
            values = (weights.pairs, weights.correct, weights.margin, weights.loss, *added)
            named = zip(_NAMES, values, strict=True)
            # A step that overflowed in float16 is left out by VeRL, and its λ is none.
            metrics = {f"{_PREFIX}{name}": value for name, value in named if math.isfinite(value)}
            tu.assign_non_tensor(output, metrics=tu.get(output, "metrics") | metrics)
        return output

    def _margins(self, batch: TensorDict) -> torch.Tensor:
        """m - m_ref of every two rows. The actor's weights are where they are needed: VeRL is about to train."""
        means = means_of(self.engine, batch, self.engine.eval_mode(disable_auto_offload=True))
        if self.dpo.dpo_reference == Reference.REF:
            if self.reference is not None:
                means = means - means_of(self.reference, batch, self.reference.eval_mode())
            else:
                with self.engine.disable_adapter():
                    means = means - means_of(self.engine, batch, self.engine.eval_mode(disable_auto_offload=True))
        return means[0::2] - means[1::2]


class PairActorWorker(ActorRolloutRefWorker):
    actor_worker_cls = PairTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def set_dpo(self, dpo: DpoConfig) -> None:
        self.actor.dpo = dpo
        self.actor.reference = self.ref.engine if self.ref is not None else None


@contextmanager
def _before_step(engine: Any, action: Callable[[], None]) -> Iterator[None]:
    """Within it, the engine runs `action` on the accumulated gradient before its optimizer steps."""
    step = engine.optimizer_step

    def act_and_step() -> float:
        action()
        return step()

    engine.optimizer_step = act_and_step
    try:
        yield
    finally:
        del engine.optimizer_step


def finish_dpo_metrics(metrics: dict[str, Any]) -> None:
    """VeRL's means over mini-batches into the `dpo/` metrics of a step, in place; none where there were no pairs."""
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
