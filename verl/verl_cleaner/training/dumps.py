"""Our tables of a step beside VeRL's dump of it: one row a trajectory, one row a retry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl_cleaner.config import rollback_config
from verl_cleaner.records import rollbacks, trajectories
from verl_cleaner.records.token_text import TokenTexts
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD
from verl_cleaner.saar.metrics import Record
from verl_cleaner.training.batch import ExtraFields, token_columns


@dataclass(slots=True)
class StepTables:
    """Rows of one step, from one batch or, at validation, from several."""

    config: DictConfig
    tokenizer: Any
    step: int
    trajectories: list[dict[str, Any]] = field(default_factory=list, init=False)
    rollbacks: list[dict[str, Any]] = field(default_factory=list, init=False)

    def add(self, batch: KVBatchMeta, extra: ExtraFields, records: Mapping[str, Record]) -> None:
        self.rollbacks += rollback_rows(records, self.config, step=self.step)
        tokens = None
        if self.config.trainer.get("dump_tokens", False):
            tokens = token_columns(extra, batch.partition_id, TokenTexts(self.tokenizer))
        self.trajectories += trajectories.rows(extra.items(), step=self.step, record_field=RECORD_FIELD, tokens=tokens)

    def write(self, folder: Path) -> None:
        rollbacks.write(folder / "rollbacks", self.rollbacks, name=str(self.step))
        trajectories.write(folder / "trajectories", self.trajectories, name=str(self.step))


def rollback_rows(records: Mapping[str, Record], config: DictConfig, *, step: int) -> list[dict[str, Any]]:
    """config: the whole configuration of the run."""
    rollback = rollback_config(config.actor_rollout_ref.rollout.multi_turn)
    return rollbacks.rows(records.items(), step=step, config=rollback)
