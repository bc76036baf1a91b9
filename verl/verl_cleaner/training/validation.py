"""What is kept of a validation: records for metrics, our tables beside VeRL's dump, and an evaluation's samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl_cleaner.evaluation import trajectories as evaluation
from verl_cleaner.saar.metrics import Record, rollback_metrics
from verl_cleaner.training.batch import extra_fields, records_of, unbound
from verl_cleaner.training.dumps import StepTables


class Validation:
    """Sees every batch of one validation while VeRL still has it (`CompleteGroups.watched_by`).

    Attributes:
        lost_groups: uids of the groups that were dropped.
    """

    def __init__(self, config: DictConfig, tokenizer: Any, *, step: int) -> None:
        trainer = config.trainer
        self.lost_groups: set[str] = set()
        self._tokenizer = tokenizer
        self._records: list[Record] = []
        self._tables = StepTables(config, tokenizer, step) if trainer.get("validation_data_dir") else None
        self._tables_folder = trainer.get("validation_data_dir")
        self._samples_folder = trainer.get("trajectories_dir")

    def keep(self, batch: KVBatchMeta, lost_groups: set[str]) -> None:
        extra = extra_fields(batch)
        records = records_of(extra)
        self._records += records.values()
        self.lost_groups |= lost_groups
        if self._tables is not None:
            self._tables.add(batch, extra, records)
        if self._samples_folder is not None:
            evaluation.write(Path(self._samples_folder), _samples(batch, self._tokenizer))

    def finish(self) -> Mapping[str, float]:
        """Write the tables; returns the metrics beside VeRL's."""
        if self._tables is not None and self._tables.trajectories:
            self._tables.write(Path(self._tables_folder))
        metrics = {f"val-aux/{key}": value for key, value in rollback_metrics(self._records).items()}
        return {"val-aux/infrastructure/lost_groups": len(self.lost_groups), **metrics}


def _samples(batch: KVBatchMeta, tokenizer: Any) -> list[evaluation.Trajectory]:
    names = ("prompts", "responses", "rm_scores", "num_turns", "data_source", "extra_info", "extra_fields")
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names))
    columns = {name: unbound(data[name]) for name in names}
    found = []
    for number, key in enumerate(batch.keys):
        fields = {name: getattr(column[number], "data", column[number]) for name, column in columns.items()}
        prompt, response = (
            tokenizer.decode(fields[name], skip_special_tokens=True) for name in ("prompts", "responses")
        )
        sample = int(key.rsplit("_", 2)[1])
        found.append(evaluation.of_sample(fields, sample=sample, input=prompt, output=response))
    return found
