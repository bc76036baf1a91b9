"""What a run needs of its driver, where VeRL's own main is the driver: done when VeRL makes Ray's environment.

On a cluster the trainer runs in another process, mostly on another node, with the environment that Ray was started
with. What is set for the command alone gets there only if the driver hands it on.
"""

import functools
import json
import os
from typing import Any

from omegaconf import OmegaConf

from verl_cleaner import TRAINERS

FORWARDED = ("CODE_JUDGE_URL", "VERL_FILE_LOGGER_PATH", "TENSORBOARD_DIR")
"""Where the judge is, and where VeRL's loggers write."""


def forwarded() -> dict[str, str]:
    """Those that are set, but for those that the cluster's job hands on."""
    return {name: os.environ[name] for name in FORWARDED if name in os.environ.keys() - job_variables()}


def job_variables() -> set[str]:
    """Variables of the runtime environment that `ray job submit` was given, if this driver is such a job. The workers
    have them, and Ray refuses a second value, even an equal one."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return set((job.get("runtime_env") or {}).get("env_vars") or ())


def chosen(config: Any) -> bool:
    """Whether a configuration asks for CLEANER in one of the two ways of docs/adopt.md."""
    mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
    return mode in TRAINERS or bool(
        OmegaConf.select(config, "actor_rollout_ref.rollout.multi_turn.enable_tool_rollback")
    )


def extend_runtime_env(constants: Any) -> None:
    """constants: VeRL's module `verl.trainer.constants_ppo`, before a main imports from it."""
    stock = constants.get_ppo_ray_runtime_env

    @functools.wraps(stock)
    def get_ppo_ray_runtime_env(config: Any = None) -> Any:
        """Raises PreflightError for a main that would train without CLEANER."""
        environment = stock(config)
        if config is not None and chosen(config):
            from verl_cleaner.preflight import check_main

            check_main(config)
            environment["env_vars"] |= forwarded()
        return environment

    constants.get_ppo_ray_runtime_env = get_ppo_ray_runtime_env
