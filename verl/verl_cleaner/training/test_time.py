"""Validation with rollback at test time, beside that of the bare policy (`trainer.validate_with_rollback=True`).

Before the first step and after the last one the held-out tasks are rolled out a second time, with rollback. Policy,
tasks and seeds are those of the first time, so the difference is what repairs add. Rollback has its default settings,
whatever the training uses. The metrics have the names of the validation's with `with_rollback/` before them;
the dumps are in `<trainer.validation_data_dir>/with_rollback`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from omegaconf import DictConfig, open_dict
from verl.utils.import_utils import load_class_from_fqn

from verl_cleaner.config import rollback_config
from verl_cleaner.records.metrics import WITH_ROLLBACK
from verl_cleaner.saar.config import RollbackConfig

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

FOLDER = WITH_ROLLBACK.rstrip("/")
TEST_TIME = {
    key: str(value) if isinstance(value, StrEnum) else value
    for key, value in asdict(RollbackConfig(enable_tool_rollback=True)).items()
}
"""The settings of rollback at test time, as keys of `multi_turn`: the defaults."""


def wanted(config: DictConfig) -> bool:
    """Whether validations of this run are to be repeated with rollback; never where they roll back anyway."""
    rollback = rollback_config(config.actor_rollout_ref.rollout.multi_turn)
    return bool(config.trainer.get("validate_with_rollback", False)) and not rollback.applies(validate=True)


def second_config(config: DictConfig) -> DictConfig:
    """A copy of the run's whole configuration for the second validation."""
    config = copy.deepcopy(config)
    with open_dict(config):
        config.actor_rollout_ref.rollout.multi_turn.update(TEST_TIME)
        if folder := config.trainer.get("validation_data_dir"):
            config.trainer.validation_data_dir = str(Path(folder) / FOLDER)
    return config


@contextmanager
def rollback_at_test_time(trainer: "PPOTrainer") -> Iterator[None]:
    """Within it, the trainer rolls out with agent loops of their own, which hold the other configuration."""
    config, manager = trainer.config, trainer.agent_loop_manager
    trainer.config = second_config(config)
    # As VeRL's task runner makes the run's own.
    manager_class = load_class_from_fqn(config.actor_rollout_ref.rollout.agent.agent_loop_manager_class)
    trainer.agent_loop_manager = manager_class.create(
        config=trainer.config,
        llm_client=trainer.get_llm_client(),
        teacher_client=trainer.get_teacher_client(),
        reward_loop_worker_handles=trainer.get_reward_handles(),
    )
    try:
        yield
    finally:
        for worker in getattr(trainer.agent_loop_manager, "agent_loop_workers", ()):
            ray.kill(worker)
        trainer.config, trainer.agent_loop_manager = config, manager


def prefixed(metrics: dict[str, Any]) -> dict[str, Any]:
    return {f"{WITH_ROLLBACK}{key}": value for key, value in metrics.items()}
