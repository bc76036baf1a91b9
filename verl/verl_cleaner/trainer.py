"""VeRL's synchronous trainer with complete groups (`verl_cleaner.groups`) and rollback metrics, also at validation."""

from functools import partial
from pathlib import Path
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.distillation import is_distillation_enabled
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass

from verl_cleaner import rollback_dump
from verl_cleaner.config import rollback_config
from verl_cleaner.evaluation import trajectories
from verl_cleaner.groups import CompleteGroups
from verl_cleaner.lost import LostTrajectory
from verl_cleaner.overwritten_loss import finish_metrics, marked_loss
from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.metrics import rollback_metrics
from verl_cleaner.tool_agent_loop import RECORD_FIELD


@register_trainer("cleaner")
class CleanerTrainer(PPOTrainerSync):
    def __init__(self, config: DictConfig) -> None:
        # VeRL compares the mode with "sync" by name in several places.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        self._dropped: set[str] = set()
        super().__init__(config)

    def _build_replay_buffer(self) -> CompleteGroups:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = self.config.trainer.v1.sampler.sampler_kwargs.get("poll_interval", buffer.poll_interval)
        return CompleteGroups(buffer, self._take_lost)

    def _setup(self) -> None:
        super()._setup()
        if self._rollback_config().enable_tool_rollback and not is_distillation_enabled(
            self.config.get("distillation")
        ):
            actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
            self.actor_rollout_wg.set_loss_fn(partial(marked_loss, actor))

    def _rollback_config(self) -> RollbackConfig:
        return rollback_config(self.config.actor_rollout_ref.rollout.multi_turn)

    def _take_lost(self) -> list[LostTrajectory]:
        return self.agent_loop_manager.take_lost()

    def _validate(self) -> dict[str, Any]:
        records: list[dict[str, Any]] = []
        self._dropped = set()

        def keep(batch: KVBatchMeta, dropped: set[str]) -> None:
            records.extend(records_of(extra_fields_of(batch)))
            self._dropped |= dropped
            if self.config.trainer.trajectories_dir is not None:
                trajectories.write(Path(self.config.trainer.trajectories_dir), self._trajectories(batch))

        self.replay_buffer.on_sample = keep
        try:
            metrics = super()._validate()
        finally:
            self.replay_buffer.on_sample = None
        metrics["val-aux/infrastructure/lost_groups"] = len(self._dropped)
        return metrics | {f"val-aux/{key}": value for key, value in rollback_metrics(records).items()}

    def _trajectories(self, batch: KVBatchMeta) -> list[trajectories.Trajectory]:
        names = ("prompts", "responses", "rm_scores", "num_turns", "data_source", "extra_info", "extra_fields")
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names))
        found = []
        for number, key in enumerate(batch.keys):
            fields = {name: getattr(data[name][number], "data", data[name][number]) for name in names}
            texts = (self.tokenizer.decode(fields[name], skip_special_tokens=True) for name in ("prompts", "responses"))
            prompt, response = texts
            sample = int(key.rsplit("_", 2)[1])
            found.append(trajectories.of_sample(fields, sample=sample, input=prompt, output=response))
        return found

    def _val_metrics_update(self, *args: Any, expected_acc_counts: Any = None, **kwargs: Any) -> dict[str, float]:
        """VeRL counts a missing trajectory as a wrong answer; one that we lost is none of the policy's."""
        counts = {key: n for key, n in (expected_acc_counts or {}).items() if key[1] not in self._dropped}
        return super()._val_metrics_update(*args, expected_acc_counts=counts, **kwargs)

    def _log_rollout_data(self, batch: KVBatchMeta, timing_raw: dict, rollout_data_dir: str) -> None:
        super()._log_rollout_data(batch, timing_raw, rollout_data_dir)
        records = [(key, fields[RECORD_FIELD]) for key, fields in keyed_extra_fields(batch) if RECORD_FIELD in fields]
        table = rollback_dump.rows(records, step=self.global_steps, config=self._rollback_config())
        rollback_dump.write(Path(rollout_data_dir) / "rollbacks", table, name=str(self.global_steps))

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict, *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        finish_metrics(metrics)
        extra = extra_fields_of(batch)
        records = records_of(extra)
        if records:
            metrics.update(rollback_metrics(records))
        metrics.update(group_metrics(extra))


def extra_fields_of(batch: KVBatchMeta) -> list[dict[str, Any]]:
    """What the agent loop and the reward function said beside the tokens, one a trajectory, padding left out."""
    return [fields for _, fields in keyed_extra_fields(batch)]


def keyed_extra_fields(batch: KVBatchMeta) -> list[tuple[str, dict[str, Any]]]:
    """The same with VeRL's key of the trajectory."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    return [(key, getattr(value, "data", value)) for key, value in zip(keys, data["extra_fields"], strict=True)]


def records_of(extra: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [fields[RECORD_FIELD] for fields in extra if RECORD_FIELD in fields]


def group_metrics(extra: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy as the reward function reports it (`acc`), and the composition of the batch."""
    accuracies = [float(info["acc"]) for fields in extra if "acc" in (info := fields.get("reward_extra_info", {}))]
    metrics = {
        "grpo/num_positive_samples": float(len(extra)),
        "grpo/num_negative_samples": 0.0,
        "grpo/total_samples": float(len(extra)),
        "grpo/negative_ratio": 0.0,
    }
    if accuracies:
        metrics["critic/score/acc"] = sum(accuracies) / len(accuracies)
    return metrics
