"""Names and small functions that several checks use."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from verl_cleaner import TRAINERS

MULTI_TURN = "actor_rollout_ref.rollout.multi_turn"

FSDP_SECTIONS = ("actor_rollout_ref.actor", "actor_rollout_ref.ref")

STOCK_DTYPE = "bfloat16"
"""VeRL's default of `fsdp_config.dtype`. A configuration with this value does not tell whether the user set it."""

_DTYPES = {"fp16": ("fp16", "float16", "16"), "bf16": ("bf16", "bfloat16"), "fp32": ("fp32", "float32", "32")}


def dtype_name(value: object) -> str | None:
    """VeRL's short name of a floating-point dtype; None for anything else."""
    return next((name for name, spellings in _DTYPES.items() if str(value) in spellings), None)


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    return next(iter(get_close_matches(word, sorted(known), n=1, cutoff=cutoff)), None)


def own_cluster(config: DictConfig) -> bool:
    """Whether the run starts a Ray of its own on this host, instead of joining a cluster."""
    return config.ray_kwargs.ray_init.get("address") is None and "RAY_ADDRESS" not in os.environ


def same_environment(config: DictConfig) -> bool:
    """Whether the run's workers see this process's files, packages and variables: Ray is started here, and nothing is
    named that it would prepare for them. On CPU the interpreter is ours (`engine.cpu.forkserver`)."""
    given = dict(config.ray_kwargs.ray_init.get("runtime_env") or {})
    if config.trainer.device == "cpu":
        given.pop("py_executable", None)
    return own_cluster(config) and not any(given.values())


def plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, (DictConfig, ListConfig)) else value


def rolls_back(config: DictConfig) -> bool:
    return config.actor_rollout_ref.rollout.multi_turn.get("enable_tool_rollback", False) is True


def verl_mode(config: DictConfig) -> str:
    """VeRL's own name of the trainer: sync, colocate_async or separate_async."""
    mode = str(config.trainer.v1.trainer_mode)
    return TRAINERS.get(mode, mode)


def trains_critic(config: DictConfig) -> bool:
    """As VeRL's `need_critic` decides, which warns each time that it is asked."""
    enable = config.critic.enable
    return bool(config.algorithm.adv_estimator == "gae" if enable is None else enable)
