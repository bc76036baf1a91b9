"""VeRL's synchronous trainer with complete groups (`verl_cleaner.training.groups`), pairs of failed and repaired calls
(`verl_cleaner.training.pairs`), and rollback metrics, also at validation."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.distillation import is_distillation_enabled
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss

from verl_cleaner.config import rollback_config
from verl_cleaner.evaluation import trajectories
from verl_cleaner.records import rollbacks as rollback_dump
from verl_cleaner.records import run_info
from verl_cleaner.records import trajectories as trajectory_dump
from verl_cleaner.records.token_text import TokenTexts
from verl_cleaner.rollout.lost_trajectory import LostTrajectory
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD
from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.metrics import rollback_metrics
from verl_cleaner.training.groups import CompleteGroups
from verl_cleaner.training.overwritten_loss import finish_metrics, marked_loss
from verl_cleaner.training.pairs.config import dpo_config
from verl_cleaner.training.pairs.travel import grant_pairs
from verl_cleaner.training.pairs.worker import PairActorWorker, finish_dpo_metrics
from verl_cleaner.training.prometheus import LoopMetrics
from verl_cleaner.training.repair_tables import log_repairs


@register_trainer("cleaner")
class CleanerTrainer(PPOTrainerSync):
    def __init__(self, config: DictConfig) -> None:
        # VeRL compares the mode with "sync" by name in several places.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        self._dropped: set[str] = set()
        self._loop_metrics = LoopMetrics()
        self._dpo = dpo_config(config.algorithm)
        self._negatives = 0
        self._earlier: list[bytes] = []
        super().__init__(config)

    def _build_replay_buffer(self) -> CompleteGroups:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = self.config.trainer.v1.sampler.sampler_kwargs.get("poll_interval", buffer.poll_interval)
        return CompleteGroups(buffer, self._take_lost)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if self._dpo.use_dpo_on_tool_calls:
            for role in {Role.ActorRollout, Role.ActorRolloutRef} & set(self.role_worker_mapping):
                self.role_worker_mapping[role] = ray.remote(PairActorWorker)

    def _setup(self) -> None:
        super()._setup()
        if self._rollback_config().enable_tool_rollback:
            self._set_loss(marked_loss)
        self._set_dpo()

    def _set_loss(self, loss: Callable[..., Any]) -> None:
        """loss: VeRL's `ppo_loss` or a function in its place. Distillation has its own."""
        if not is_distillation_enabled(self.config.get("distillation")):
            actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
            self.actor_rollout_wg.set_loss_fn(partial(loss, actor))

    def _set_dpo(self) -> None:
        if self._dpo.use_dpo_on_tool_calls:
            self.actor_rollout_wg.set_dpo(self._dpo)

    def take_over(self, host: "CleanerTrainer", start: Path) -> None:
        """In place of `init`: use the workers of `host`, set back to the weights and optimizer in `start` or in this
        run's own checkpoint."""
        self._init_tokenizer()
        self._init_dataloader()
        self._init_dump_executor()
        for name in vars(host).keys() - vars(self).keys():
            setattr(self, name, getattr(host, name))
        self._set_loss(marked_loss if self._rollback_config().enable_tool_rollback else ppo_loss)
        self._set_dpo()
        self.checkpoint_manager.sleep_replicas()
        self.actor_rollout_wg.load_checkpoint(str(start))
        self._load_checkpoint()
        self.on_init_end()

    def fit(self, *args: Any, **kwargs: Any) -> None:
        self._read_earlier_metrics()
        for folder in ("rollout_data_dir", "validation_data_dir"):
            if self.config.trainer.get(folder):
                run_info.write(Path(self.config.trainer[folder]), self.config)
                break
        if address := self.config.trainer.get("metrics_address"):
            self._loop_metrics.serve(address)
        super().fit(*args, **kwargs)

    def _read_earlier_metrics(self) -> None:
        """VeRL's file logger begins its file anew also where a run is resumed."""
        path = Path(os.environ.get("VERL_FILE_LOGGER_PATH", ""))
        if self.global_steps > 0 and path.is_file():
            complete = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            self._earlier = [line for line in complete if json.loads(line)["step"] <= self.global_steps]

    def _write_earlier_metrics(self) -> None:
        logger = self.logger.logger.get("file")
        if logger is not None and self._earlier:
            logger.fp.write(b"".join(self._earlier))
        self._earlier = []

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        self._write_earlier_metrics()

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._write_earlier_metrics()

    def _rollback_config(self) -> RollbackConfig:
        return rollback_config(self.config.actor_rollout_ref.rollout.multi_turn)

    def _take_lost(self) -> list[LostTrajectory]:
        return self.agent_loop_manager.take_lost()

    def _validate(self) -> dict[str, Any]:
        records: list[dict[str, Any]] = []
        self._dropped = set()
        dump = _Dump()

        def keep(batch: KVBatchMeta, dropped: set[str]) -> None:
            keyed = keyed_extra_fields(batch)
            records.extend(records_of([fields for _, fields in keyed]))
            self._dropped |= dropped
            if self.config.trainer.get("validation_data_dir"):
                dump.rollbacks += self._rollback_rows(keyed)
                dump.trajectories += self._trajectory_rows(batch, keyed)
            if self.config.trainer.trajectories_dir is not None:
                trajectories.write(Path(self.config.trainer.trajectories_dir), self._trajectories(batch))

        self.replay_buffer.on_sample = keep
        try:
            metrics = super()._validate()
        finally:
            self.replay_buffer.on_sample = None
        if dump.trajectories:
            dump.write(Path(self.config.trainer.validation_data_dir), name=str(self.global_steps))
        metrics["val-aux/infrastructure/lost_groups"] = len(self._dropped)
        self._loop_metrics.validated(metrics)
        return metrics | {f"val-aux/{key}": value for key, value in rollback_metrics(records).items()}

    def _trajectories(self, batch: KVBatchMeta) -> list[trajectories.Trajectory]:
        names = ("prompts", "responses", "rm_scores", "num_turns", "data_source", "extra_info", "extra_fields")
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names))
        columns = {name: unbound(data[name]) for name in names}
        found = []
        for number, key in enumerate(batch.keys):
            fields = {name: getattr(column[number], "data", column[number]) for name, column in columns.items()}
            prompt, response = (
                self.tokenizer.decode(fields[name], skip_special_tokens=True) for name in ("prompts", "responses")
            )
            sample = int(key.rsplit("_", 2)[1])
            found.append(trajectories.of_sample(fields, sample=sample, input=prompt, output=response))
        return found

    def _val_metrics_update(self, *args: Any, expected_acc_counts: Any = None, **kwargs: Any) -> dict[str, float]:
        """VeRL counts a missing trajectory as a wrong answer; one that we lost is none of the policy's."""
        if self.config.trainer.trajectories_dir is not None:
            # An evaluation's report has statistics of its own; VeRL's take 1,000 bootstrap samples for every problem,
            # every number the reward function returns, and every k.
            return {}
        counts = {key: n for key, n in (expected_acc_counts or {}).items() if key[1] not in self._dropped}
        return super()._val_metrics_update(*args, expected_acc_counts=counts, **kwargs)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        rollback = self._rollback_config()
        if rollback.save_negative_samples:
            seed = (self.config.actor_rollout_ref.rollout.get("seed", 0), self.global_steps)
            batch, self._negatives = grant_pairs(batch, limit=rollback.max_negative_samples_per_group, seed=seed)
        return super()._update_actor(batch, metrics)

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict, *args: Any, **kwargs: Any) -> None:
        """And our dump beside VeRL's, of the same extra fields."""
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        finish_metrics(metrics)
        finish_dpo_metrics(metrics)
        keyed = keyed_extra_fields(batch)
        records = records_of([fields for _, fields in keyed])
        if records:
            metrics.update(rollback_metrics(records))
        metrics.update(group_metrics([fields for _, fields in keyed], negatives=self._negatives))
        metrics.update(zero_variance_groups(keyed))
        self._loop_metrics.stepped(self.global_steps, metrics, records)
        rollbacks = self._rollback_rows(keyed)
        log_repairs(self.logger.logger, rollbacks, records, step=self.global_steps)
        if folder := self.config.trainer.get("rollout_data_dir"):
            dump = _Dump(rollbacks, self._trajectory_rows(batch, keyed))
            dump.write(Path(folder), name=str(self.global_steps))

    def _trajectory_rows(self, batch: KVBatchMeta, keyed: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
        tokens = None
        if self.config.trainer.get("dump_tokens", False):
            tokens = token_columns([key for key, _ in keyed], batch.partition_id, TokenTexts(self.tokenizer))
        return trajectory_dump.rows(keyed, step=self.global_steps, record_field=RECORD_FIELD, tokens=tokens)

    def _rollback_rows(self, keyed: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
        records = [(key, fields[RECORD_FIELD]) for key, fields in keyed if RECORD_FIELD in fields]
        return rollback_dump.rows(records, step=self.global_steps, config=self._rollback_config())


@dataclass(slots=True)
class _Dump:
    """Rows of our tables beside VeRL's dump of a step."""

    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    trajectories: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path, *, name: str) -> None:
        rollback_dump.write(folder / "rollbacks", self.rollbacks, name=name)
        trajectory_dump.write(folder / "trajectories", self.trajectories, name=name)


def keyed_extra_fields(batch: KVBatchMeta) -> list[tuple[str, dict[str, Any]]]:
    """What the agent loop and the reward function said beside the tokens, by VeRL's key of the trajectory; padding left
    out."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    return [(key, getattr(value, "data", value)) for key, value in zip(keys, data["extra_fields"], strict=True)]


def unbound(column: Any) -> Sequence[Any]:
    """The rows of a batch's column, tensor or not. A nested tensor is taken apart as a whole at every `column[i]`."""
    return column.unbind() if isinstance(column, torch.Tensor) else list(column)


def token_columns(keys: list[str], partition_id: str, texts: TokenTexts) -> dict[str, dict[str, Any]]:
    """By key, what the batch holds of every token, as in `trajectory_dump.TOKEN_COLUMNS`."""
    numbers = {"response_mask": "mask"} | {name: name for name in trajectory_dump.SCORE_COLUMNS}
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["prompts", "responses", *numbers])
    names = {name: column for name, column in numbers.items() if name in data}
    fields = {name: unbound(data[name]) for name in ("prompts", "responses", *names)}
    found = {}
    for i, key in enumerate(keys):
        columns: dict[str, Any] = {column: fields[name][i].tolist() for name, column in names.items()}
        columns["prompt"] = "".join(texts(fields["prompts"][i].tolist()))
        columns["tokens"] = texts(fields["responses"][i].tolist())
        found[key] = columns
    return found


def records_of(extra: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [fields[RECORD_FIELD] for fields in extra if RECORD_FIELD in fields]


def zero_variance_groups(keyed: list[tuple[str, dict[str, Any]]]) -> dict[str, float]:
    """The share of groups whose trajectories all have one score: GRPO learns nothing from them. Empty where the reward
    function reports no score."""
    scores: dict[str, set[float]] = {}
    for key, fields in keyed:
        info = fields.get("reward_extra_info", {})
        score = info.get("score", info.get("acc"))
        if score is not None:
            scores.setdefault(key.split("_")[0], set()).add(float(score))
    if not scores:
        return {}
    return {"grpo/zero_variance_groups": sum(len(group) == 1 for group in scores.values()) / len(scores)}


def group_metrics(extra: list[dict[str, Any]], *, negatives: int = 0) -> dict[str, float]:
    """Accuracy as the reward function reports it (`acc`), and the composition of the batch.

    extra: of the real trajectories, the positive samples. negatives: failed calls that stand beside one of them.
    """
    accuracies = [float(info["acc"]) for fields in extra if "acc" in (info := fields.get("reward_extra_info", {}))]
    metrics = {
        "grpo/num_positive_samples": float(len(extra)),
        "grpo/num_negative_samples": float(negatives),
        "grpo/total_samples": float(len(extra) + negatives),
        "grpo/negative_ratio": negatives / (len(extra) + negatives) if extra else 0.0,
    }
    if accuracies:
        metrics["critic/score/acc"] = sum(accuracies) / len(accuracies)
    return metrics
