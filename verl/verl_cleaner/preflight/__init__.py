"""Checks before Ray starts: what VeRL would swallow, or find out minutes later in one of its workers.

prepare    fills in our defaults and translates documented keys into those VeRL reads
check      collects everything that is wrong into one PreflightError

loaded     the plug-in is really loaded        keys       ignored, moved and unknown keys
values     ranges and combinations             pairs      the same for DPO on tool calls
inputs     files, columns, tokenizer, tools, judge
"""

import contextlib
import io
from collections.abc import Iterator

from omegaconf import DictConfig

from verl_cleaner.preflight.names import own_cluster
from verl_cleaner.preflight.translate import prepare

__all__ = ["PreflightError", "check", "own_cluster", "prepare"]


class PreflightError(Exception):
    """`problems`: one text each, naming the key, what was got, what is expected and the fix."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{head} before the start:\n" + "\n".join(f"  - {problem}" for problem in problems))


def check(config: DictConfig) -> None:
    """Raises PreflightError with all problems that can be found without starting anything."""
    from verl_cleaner.preflight import inputs, keys, loaded, pairs, values

    problems = [
        *loaded.problems(),
        *keys.problems(config),
        *values.problems(config),
        *pairs.problems(config),
        *inputs.problems(config),
    ]
    if not problems:
        problems += _verl_problems(config)
    if problems:
        raise PreflightError(problems)


def _verl_problems(config: DictConfig) -> Iterator[str]:
    """What VeRL's own checks say, also those it would make in the workers."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
            validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    except Exception as error:
        yield f"VeRL refuses the configuration: {type(error).__name__}: {error}"
