"""Which methods a run uses to learn from failed calls, and what the trainer asks of each."""

from collections.abc import Sequence
from typing import Any, Protocol

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl_cleaner.training.actor import LossTerm
from verl_cleaner.training.credit.penalty import PenaltyCredit
from verl_cleaner.training.pairs.credit import PairCredit


class CreditMethod(Protocol):
    """The trainer's side of one method. The methods below are called in their order, once a step each."""

    @property
    def samples(self) -> int:
        """Failed calls that are trained on in this step."""

    def loss_term(self) -> LossTerm | None:
        """The actor's side; None where the method needs no gradient of its own."""

    def after_advantages(self, batch: KVBatchMeta, metrics: dict[str, Any], *, step: int) -> KVBatchMeta:
        """VeRL's advantages are in TransferQueue; they may be replaced."""

    def before_update(self, batch: KVBatchMeta, metrics: dict[str, Any], *, step: int) -> KVBatchMeta:
        """Fields that are written here reach the actor with the batch that is returned."""

    def finish_metrics(self, metrics: dict[str, Any]) -> None:
        """Turn what the actor's side reported into the metrics of the step, in place."""


def credit_methods(config: DictConfig) -> Sequence[CreditMethod]:
    """Those that `config`, the whole configuration of a run, asks for. Raises ValueError for bad values."""
    methods: list[CreditMethod | None] = [
        PairCredit.of(config),
        PenaltyCredit.of(config),
    ]
    return [method for method in methods if method is not None]
