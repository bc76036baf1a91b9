"""VeRL's actor worker with more terms in its loss, and with leaves.

A term (`LossTerm`) has a gradient of its own, from sequences of its own. VeRL first computes the gradient of its own
loss on a mini-batch. Then each term adds its gradient, in the order of the terms, and the optimizer steps once on the
sum. A mini-batch for which no term has anything to add is trained exactly as VeRL trains it.

Leaves (`verl_cleaner.training.credit`) are no term: they are further rows of the mini-batch, in VeRL's own loss.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tensordict import TensorDict
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from verl_cleaner.training.credit.minibatch import VALUES_FIELD, with_leaves


class ExtraGradient(Protocol):
    """What one term adds to one optimizer step."""

    def add(self) -> None:
        """Add to the gradients that the engine has accumulated, in place; called once, after the last micro-batch."""

    def metrics(self) -> Mapping[str, float]:
        """Of this step, after `add`. The trainer receives them as `actor/NAME`, averaged over mini-batches."""


class LossTerm(Protocol):
    """A term of the actor's loss. It travels to the workers by pickle."""

    def attach(self, worker: ActorRolloutRefWorker) -> None:
        """Called once in each worker, after its models are built."""

    def prepare(self, worker: TrainingWorker, data: TensorDict) -> ExtraGradient | None:
        """Look at this worker's part of a mini-batch before VeRL trains on it; the weights are loaded.

        A worker without sequences of its own must still take part where other workers have some, because passes are
        collective. None is returned by all workers or by none.
        """


class ExtendedTrainingWorker(TrainingWorker):
    terms: Sequence[LossTerm] = ()

    def train_batch(self, data: TensorDict) -> TensorDict | None:
        """One optimizer step."""
        if VALUES_FIELD in data:
            data = with_leaves(data, self.engine_config, group=self.engine.get_data_parallel_group())
        prepared = [term.prepare(self, data) for term in self.terms]
        extras = [extra for extra in prepared if extra is not None]
        if not extras:
            return super().train_batch(data)
        with _before_step(self.engine, extras):
            output = super().train_batch(data)
        if output is not None:
            metrics = dict(tu.get(output, "metrics"))
            for extra in extras:
                metrics |= extra.metrics()
            tu.assign_non_tensor(output, metrics=metrics)
        return output


class ExtendedActorWorker(ActorRolloutRefWorker):
    actor_worker_cls = ExtendedTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def set_loss_terms(self, terms: Sequence[LossTerm]) -> None:
        for term in terms:
            term.attach(self)
        self.actor.terms = terms


class ExtendedDetachWorker(ExtendedActorWorker, DetachActorWorker):
    """Over the workers of VeRL's separate_async, which keep an earlier version of the weights for the old log-probs."""


@contextmanager
def _before_step(engine: Any, extras: Sequence[ExtraGradient]) -> Iterator[None]:
    """Within it, the engine adds `extras` to the accumulated gradient before its optimizer steps."""
    step = engine.optimizer_step

    def add_and_step() -> float:
        for extra in extras:
            extra.add()
        return step()

    engine.optimizer_step = add_and_step
    try:
        yield
    finally:
        del engine.optimizer_step
