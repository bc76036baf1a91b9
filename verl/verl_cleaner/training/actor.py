"""VeRL's actor worker, which also trains on leaves and on pairs.

Leaves (`verl_cleaner.training.credit`) are further rows of the mini-batch, in VeRL's own loss. Pairs
(`verl_cleaner.training.pairs`) have a gradient of their own: VeRL computes the gradient of its loss on a mini-batch,
that of the pairs is added, and the optimizer steps once on the sum. A mini-batch without either is trained exactly as
VeRL trains it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tensordict import TensorDict
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.import_utils import import_external_libs
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker, TrainingWorkerConfig

from verl_cleaner.training.credit.minibatch import VALUES_FIELD, with_leaves
from verl_cleaner.training.pairs.config import DpoConfig
from verl_cleaner.training.pairs.step import PairTerm


class ExtendedTrainingWorker(TrainingWorker):
    pairs: PairTerm | None = None

    def train_batch(self, data: TensorDict) -> TensorDict | None:
        """One optimizer step."""
        if VALUES_FIELD in data:
            data = with_leaves(data, self.engine_config, group=self.engine.get_data_parallel_group())
        gradient = None if self.pairs is None else self.pairs.prepare(self, data)
        if gradient is None:
            return super().train_batch(data)
        with _before_step(self.engine, gradient.add):
            output = super().train_batch(data)
        if output is not None:
            tu.assign_non_tensor(output, metrics={**tu.get(output, "metrics"), **gradient.metrics()})
        return output


class ExtendedActorWorker(ActorRolloutRefWorker):
    actor_worker_cls = ExtendedTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def set_pairs(self, dpo: DpoConfig) -> None:
        """Train on pairs from now on."""
        self.actor.pairs = PairTerm(dpo, self.ref.engine if self.ref is not None else None)


class ExtendedDetachWorker(ExtendedActorWorker, DetachActorWorker):
    """Over the workers of VeRL's separate_async, which keep an earlier version of the weights for the old log-probs."""


class CriticWorker(TrainingWorker):
    """VeRL builds a critic where `critic.model.external_lib` has not been imported."""

    def __init__(self, config: TrainingWorkerConfig) -> None:
        libraries = config.model_config.external_lib or ()
        # VeRL takes a name or a list of names; Hydra's list is none to it.
        import_external_libs(libraries if isinstance(libraries, str) else list(libraries))
        super().__init__(config)


@contextmanager
def _before_step(engine: Any, add: Callable[[], None]) -> Iterator[None]:
    """Within it, the engine calls `add`, which changes the accumulated gradient, before its optimizer steps."""
    step = engine.optimizer_step

    def add_and_step() -> float:
        add()
        return step()

    engine.optimizer_step = add_and_step
    try:
        yield
    finally:
        del engine.optimizer_step
