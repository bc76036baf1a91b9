"""Findings of VeRL's own checks, also of those that VeRL makes only in its workers."""

import contextlib
import io
from collections.abc import Iterator

from omegaconf import DictConfig

from verl_cleaner.preflight.finding import Finding, error


def verl(config: DictConfig) -> Iterator[Finding]:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
            validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    except Exception as failure:
        yield error(f"VeRL refuses the configuration: {type(failure).__name__}: {failure}")
