"""What is kept of a validation: records for metrics, our tables beside VeRL's dump, and an evaluation's samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl_cleaner.formats import FORMATS
from verl_cleaner.records import trajectories
from verl_cleaner.rollout.lost_trajectory import LossCause
from verl_cleaner.saar.metrics import rollback_metrics
from verl_cleaner.saar.record import Record
from verl_cleaner.training.batch import extra_fields, output_columns, records_of, text_columns
from verl_cleaner.training.dumps import StepTables, trajectory_rows


class Validation:
    """Sees every batch of one validation while VeRL still has it (`CompleteGroups.watched_by`).

    Attributes:
        lost_groups: why groups were dropped, by uid.
    """

    def __init__(self, config: DictConfig, tokenizer: Any, *, step: int) -> None:
        trainer = config.trainer
        self.lost_groups: dict[str, LossCause] = {}
        self._step = step
        self._tokenizer = tokenizer
        self._format = FORMATS.get(config.actor_rollout_ref.rollout.multi_turn.format)
        self._records: list[Record] = []
        self._tables = StepTables(config, tokenizer, step) if trainer.get("validation_data_dir") else None
        self._tables_folder = trainer.get("validation_data_dir")
        self._samples_folder = trainer.get("trajectories_dir")

    def keep(self, batch: KVBatchMeta, lost_groups: Mapping[str, LossCause]) -> None:
        extra = extra_fields(batch)
        records = records_of(extra)
        self._records += records.values()
        self.lost_groups |= lost_groups
        if self._tables is None and self._samples_folder is None:
            return
        columns = output_columns(extra, batch.partition_id)
        if self._tables is not None:
            self._tables.add(extra, records, columns, partition_id=batch.partition_id)
        if self._samples_folder is not None:
            texts = text_columns(extra, batch.partition_id, self._tokenizer, self._format)
            columns = {key: columns[key] | texts[key] for key in columns}
            samples = trajectory_rows(extra, columns, step=self._step)
            trajectories.write_next(Path(self._samples_folder), samples)

    def finish(self) -> Mapping[str, float]:
        """Write the tables; returns the metrics beside VeRL's."""
        if self._tables is not None and self._tables.trajectories:
            self._tables.write(Path(self._tables_folder))
        metrics = {f"val-aux/{key}": value for key, value in rollback_metrics(self._records).items()}
        causes = list(self.lost_groups.values())
        return {
            "val-aux/infrastructure/lost_groups": causes.count(LossCause.OUTAGE),
            "val-aux/reward/lost_groups": causes.count(LossCause.REWARD),
            **metrics,
        }
