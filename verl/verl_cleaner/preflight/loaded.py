"""Checks that the plug-in is loaded. VeRL logs a plug-in that fails to load at level DEBUG, and goes on without it."""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points

from omegaconf import DictConfig

from verl_cleaner import TRAINER, TRAINERS, platform_is_cpu
from verl_cleaner.preflight.finding import Finding, error

GROUP, NAME, MODULE = "verl.plugins", "cleaner", "verl_cleaner.plugin"


def plugin(_: DictConfig) -> Iterator[Finding]:
    """In this process; the workers inherit its environment."""
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    if policy != "auto" and NAME not in policy.split(","):
        yield error(
            f"VERL_USE_EXTERNAL_PLUGINS={policy} keeps VeRL from loading this plug-in, expected auto or a list with "
            f"{NAME}; unset it"
        )
        return
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if NAME not in found:
        yield error(
            f"the entry point {NAME} = {MODULE} is missing in the group {GROUP} (found: {sorted(found) or 'none'}), so "
            "VeRL's workers would run without this plug-in; install the package verl-cleaner"
        )
        return
    try:
        module = found[NAME].load()
    except Exception as failure:
        yield error(f"the plug-in {MODULE} fails to load: {type(failure).__name__}: {failure}")
        return
    for missing in _not_registered(module):
        yield error(f"the plug-in is loaded, but {missing}; is VeRL's version 0.9.x?")


def _not_registered(module: object) -> Iterator[str]:
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    if sys.modules.get(MODULE) is not module:
        yield f"VeRL loaded another module than {MODULE}"
    for name in TRAINERS:
        if TRAINER_REGISTRY.get(name) is not getattr(module, "cleaner_trainer", None):
            yield f"the trainer {name} is not registered"


def trainer_mode(config: DictConfig) -> Iterator[Finding]:
    """Runs under `verl_cleaner.main_ppo` only. Under VeRL's main, another trainer mode is a run without CLEANER."""
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    from verl_cleaner.training.trainer import CleanerTrainerMixin

    mode = config.trainer.v1.trainer_mode
    trainer = TRAINER_REGISTRY.get(mode)
    if trainer is None:
        yield error(
            f"trainer.v1.trainer_mode={mode} is unknown, expected {TRAINER} or one of "
            f"{', '.join(sorted(set(TRAINER_REGISTRY) - {TRAINER}))}"
        )
    elif mode not in TRAINERS and not issubclass(trainer, CleanerTrainerMixin):
        ours = next((name for name, base in TRAINERS.items() if base == mode), TRAINER)
        yield error(f"trainer.v1.trainer_mode={mode} trains without CLEANER, expected {ours}")


def main(config: DictConfig) -> Iterator[Finding]:
    """VeRL has trainers outside its table of V1 trainers, with mains of their own and sections that only they have."""
    why = (
        "it has a trainer of its own, which neither reads trainer.v1 nor takes trajectories from TransferQueue, where "
        "this plug-in completes groups, adds leaves and computes metrics; start verl.trainer.main_ppo with "
        "trainer.v1.trainer_mode=cleaner_separate_async, VeRL's V1 trainer of the same kind"
    )
    if "async_training" in config:
        yield error(f"verl.experimental.fully_async_policy trains without CLEANER: {why}")
    elif "rollout" in config:
        yield error(f"verl.experimental.one_step_off_policy trains without CLEANER: {why}")
    elif not config.trainer.get("use_v1", True):
        yield error("trainer.use_v1=False trains without CLEANER, expected True: the plug-in extends the V1 trainer")


def platform(config: DictConfig) -> Iterator[Finding]:
    """VeRL chooses its platform when it is imported, so under VeRL's main nobody else can set the variable."""
    if config.trainer.get("device") == "cpu" and not platform_is_cpu():
        got = os.environ.get("VERL_PLATFORM", "")
        yield error(
            f"trainer.device=cpu needs the variable VERL_PLATFORM=cpu before Python starts, got {got or 'none'}; write "
            "VERL_PLATFORM=cpu in front of the command"
        )
