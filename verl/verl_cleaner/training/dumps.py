"""Our tables beside VeRL's dump of a step: one row a trajectory, one row a retry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from verl_cleaner.config import rollback_config
from verl_cleaner.records import rollbacks, trajectories
from verl_cleaner.records.trajectories import Trajectory, of_output
from verl_cleaner.saar.record import Record
from verl_cleaner.training.batch import ExtraFields, OutputColumns, token_columns


@dataclass(slots=True)
class StepTables:
    """Of one step, from one batch or, at validation, from several. config: the whole configuration of the run."""

    config: DictConfig
    tokenizer: Any
    step: int
    trajectories: list[Trajectory] = field(default_factory=list, init=False)
    rollbacks: list[dict[str, Any]] = field(default_factory=list, init=False)

    def add(
        self, extra: ExtraFields, records: Mapping[str, Record], columns: OutputColumns, *, partition_id: str
    ) -> None:
        self.rollbacks += rollback_rows(records, self.config, step=self.step)
        if self.config.trainer.get("dump_tokens", False):
            tokens = token_columns(extra, partition_id, self.tokenizer)
            columns = {key: {**columns[key], **tokens[key]} for key in columns}
        self.trajectories += trajectory_rows(extra, columns, step=self.step)

    def write(self, folder: Path) -> None:
        """folder: of VeRL's dump."""
        trajectories.write(folder / "trajectories" / f"{self.step}.parquet", self.trajectories)
        rollbacks.write(folder / "rollbacks" / f"{self.step}.parquet", self.rollbacks)


def trajectory_rows(extra: ExtraFields, columns: OutputColumns, *, step: int) -> Sequence[Trajectory]:
    return [of_output(key, fields, step=step, **columns[key]) for key, fields in extra.items()]


def rollback_rows(records: Mapping[str, Record], config: DictConfig, *, step: int) -> list[dict[str, Any]]:
    rollback = rollback_config(config.actor_rollout_ref.rollout.multi_turn)
    return rollbacks.rows(records.items(), step=step, config=rollback)
