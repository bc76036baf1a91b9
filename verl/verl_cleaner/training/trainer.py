"""VeRL's trainer with complete groups, credit for failed calls, and records of what happened.

The mixin stands left of a trainer of VeRL's V1 and adds to it, step by step:

    sample        groups are complete, or dropped and counted    groups
    advantages    credit for failed calls                        credit.trainer, credit.penalty
    update        leaves and pairs of failed calls               actor, pairs.grant, overwritten_loss
    metrics       rollback metrics, tables, live metrics         step_metrics, dumps, repair_tables, prometheus
    validation    the same, and an evaluation's samples          validation, test_time
"""

from functools import partial
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.trainer.distillation import is_distillation_enabled
from verl.trainer.ppo.utils import Role
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss

from verl_cleaner.config import rollback_config
from verl_cleaner.enable import enable
from verl_cleaner.records import run_info
from verl_cleaner.rollout.lost_trajectory import FailurePolicy, LostTrajectory
from verl_cleaner.saar.metrics import rollback_metrics
from verl_cleaner.training.actor import CriticWorker, ExtendedActorWorker
from verl_cleaner.training.batch import extra_fields, output_columns, records_of
from verl_cleaner.training.credit.penalty import charge_failed_calls, failed_call_penalty
from verl_cleaner.training.credit.trainer import LeafTrainerMixin
from verl_cleaner.training.dumps import StepTables, rollback_rows
from verl_cleaner.training.file_log import EarlierMetrics
from verl_cleaner.training.groups import CompleteGroups
from verl_cleaner.training.overwritten_loss import finish_metrics, marked_loss
from verl_cleaner.training.pairs.config import dpo_config
from verl_cleaner.training.pairs.grant import grant_pairs
from verl_cleaner.training.pairs.step import finish_dpo_metrics
from verl_cleaner.training.prometheus import LoopMetrics
from verl_cleaner.training.repair_tables import log_layout, log_repairs
from verl_cleaner.training.step_metrics import batch_metrics, zero_variance_groups
from verl_cleaner.training.test_time import prefixed, rollback_at_test_time, wanted
from verl_cleaner.training.validation import Validation


class CleanerTrainerMixin(LeafTrainerMixin):
    """For a subclass of VeRL's `PPOTrainer`, as `class MyTrainer(CleanerTrainerMixin, PPOTrainerSync)`.

    actor_worker: the class of the actor's workers, over the one that the trainer of VeRL's uses.
    """

    actor_worker: type = ExtendedActorWorker

    # Of a step, which has several updates where parameter_sync_step is more than 1.
    _granted_pairs = 0

    def __init__(self, config: DictConfig) -> None:
        enable(config)
        self._earlier_metrics = EarlierMetrics()
        self._live_metrics = LoopMetrics()
        self._validation: Validation | None = None
        self._training = False
        super().__init__(config)

    # ---- set-up ------------------------------------------------------------------------------------------------------

    def _build_replay_buffer(self) -> CompleteGroups:
        seconds = self.config.trainer.v1.sampler.sampler_kwargs.get("poll_interval")
        policy = FailurePolicy.of(self.config.trainer)
        return CompleteGroups(super()._build_replay_buffer(), self._take_lost, poll_interval=seconds, policy=policy)

    def _take_lost(self) -> list[LostTrajectory]:
        """None are known of where the user's own manager runs the agent loops."""
        take = getattr(self.agent_loop_manager, "take_lost", None)
        return take() if take is not None else []

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        # In every run: without terms and leaves it is VeRL's, and a series of runs shares its workers.
        for role in {Role.Actor, Role.ActorRollout, Role.ActorRolloutRef} & set(self.role_worker_mapping):
            self.role_worker_mapping[role] = ray.remote(self.actor_worker)
        if Role.Critic in self.role_worker_mapping:
            self.role_worker_mapping[Role.Critic] = ray.remote(CriticWorker)

    def _setup(self) -> None:
        super()._setup()
        self.set_losses()

    def set_losses(self) -> None:
        """Tell the actor workers the loss that this trainer's configuration asks for, and whether pairs are in it."""
        rollback = rollback_config(self.config.actor_rollout_ref.rollout.multi_turn)
        # Distillation has a loss of its own.
        if not is_distillation_enabled(self.config.get("distillation")):
            loss = marked_loss if rollback.enable_tool_rollback else ppo_loss
            self.actor_rollout_wg.set_loss_fn(
                partial(loss, omega_conf_to_dataclass(self.config.actor_rollout_ref.actor))
            )
        dpo = dpo_config(self.config.algorithm)
        if rollback.save_negative_samples and dpo.use_dpo_on_tool_calls:
            self.actor_rollout_wg.set_pairs(dpo)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        self._earlier_metrics.read(last_step=self.global_steps)
        self.replay_buffer.resumed()
        folders = (self.config.trainer.get(name) for name in ("rollout_data_dir", "validation_data_dir"))
        if folder := next(filter(None, folders), None):
            run_info.write(Path(folder), self.config)
        if address := self.config.trainer.get("metrics_address"):
            self._live_metrics.serve(address)
        super().fit(*args, **kwargs)

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        self._earlier_metrics.write(self.logger.logger)

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._training = True
        self._earlier_metrics.write(self.logger.logger)
        log_layout(self.logger.logger)

    # ---- a step ------------------------------------------------------------------------------------------------------

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        if penalty := failed_call_penalty(self.config.algorithm):
            batch, charged = charge_failed_calls(batch, penalty)
            metrics.update(charged)
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        rollout = self.config.actor_rollout_ref.rollout
        rollback = rollback_config(rollout.multi_turn)
        if rollback.save_negative_samples:
            seed, limit = (rollout.get("seed", 0), self.global_steps), rollback.max_negative_samples_per_group
            batch, granted = grant_pairs(batch, limit=limit, seed=seed)
            self._granted_pairs += granted
        return super()._update_actor(batch, metrics)

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Before VeRL clears the batch, so that our tables are written here too."""
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        finish_metrics(metrics)
        finish_dpo_metrics(metrics)
        extra = extra_fields(batch)
        records = records_of(extra)
        if records:
            metrics.update(rollback_metrics(list(records.values())))
        metrics.update(batch_metrics(extra, negatives=self._granted_pairs))
        self._granted_pairs = 0
        metrics.update(self.replay_buffer.take_losses())
        columns = output_columns(extra, batch.partition_id)
        metrics.update(zero_variance_groups({key: row["score"] for key, row in columns.items()}))
        self._live_metrics.stepped(self.global_steps, metrics, list(records.values()))
        rows = rollback_rows(records, self.config, step=self.global_steps)
        log_repairs(self.logger.logger, rows, list(records.values()), step=self.global_steps)
        if folder := self.config.trainer.get("rollout_data_dir"):
            tables = StepTables(self.config, self.tokenizer, self.global_steps)
            tables.add(extra, records, columns, partition_id=batch.partition_id)
            tables.write(Path(folder))

    # ---- validation --------------------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, Any]:
        metrics = self._validate_once()
        at_an_end = not self._training or self.global_steps >= self.total_training_steps
        if at_an_end and wanted(self.config):
            with rollback_at_test_time(self):
                metrics.update(prefixed(self._validate_once()))
        self._live_metrics.validated(metrics)
        return metrics

    def _validate_once(self) -> dict[str, Any]:
        self._validation = Validation(self.config, self.tokenizer, step=self.global_steps)
        with self.replay_buffer.watched_by(self._validation.keep):
            metrics: dict[str, Any] = super()._validate()
        metrics.update(self._validation.finish())
        return metrics

    def _val_metrics_update(self, *args: Any, expected_acc_counts: Any = None, **kwargs: Any) -> dict[str, float]:
        """VeRL counts a missing trajectory as a wrong answer; one that our infrastructure lost is not the policy's."""
        if self.config.trainer.get("trajectories_dir") is not None:
            # An evaluation's report has statistics of its own; VeRL's take 1,000 bootstrap samples for every problem,
            # every number the reward function returns, and every k.
            return {}
        lost = self._validation.lost_groups if self._validation is not None else set()
        counts = {key: n for key, n in (expected_acc_counts or {}).items() if key[1] not in lost}
        return super()._val_metrics_update(*args, expected_acc_counts=counts, **kwargs)
