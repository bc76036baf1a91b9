"""What the trainer does for pairs: it chooses which are trained on, and reports their metrics."""

from dataclasses import dataclass, field
from typing import Any, Self

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl_cleaner.config import rollback_config
from verl_cleaner.training.pairs.config import DpoConfig, dpo_config
from verl_cleaner.training.pairs.grant import grant_pairs
from verl_cleaner.training.pairs.term import PairTerm, finish_dpo_metrics


@dataclass(slots=True)
class PairCredit:
    """limit: most pairs of a group. seed: of the random choice where there are more."""

    dpo: DpoConfig
    limit: int
    seed: int
    samples: int = field(default=0, init=False)

    @classmethod
    def of(cls, config: DictConfig) -> Self | None:
        """None where the configuration keeps no pairs."""
        rollout = config.actor_rollout_ref.rollout
        rollback = rollback_config(rollout.multi_turn)
        if not rollback.save_negative_samples:
            return None
        return cls(dpo_config(config.algorithm), rollback.max_negative_samples_per_group, rollout.get("seed", 0))

    def loss_term(self) -> PairTerm | None:
        return PairTerm(self.dpo) if self.dpo.use_dpo_on_tool_calls else None

    def after_advantages(self, batch: KVBatchMeta, metrics: dict[str, Any], *, step: int) -> KVBatchMeta:
        return batch

    def before_update(self, batch: KVBatchMeta, metrics: dict[str, Any], *, step: int) -> KVBatchMeta:
        batch, self.samples = grant_pairs(batch, limit=self.limit, seed=(self.seed, step))
        return batch

    def finish_metrics(self, metrics: dict[str, Any]) -> None:
        finish_dpo_metrics(metrics)
