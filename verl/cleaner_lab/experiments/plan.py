"""Which runs a series makes, and in what they may differ: in everything that no worker is built from."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

import verl_cleaner

SETTINGS = "settings.json"
"""In a run's folder once it has begun."""
DONE = "done.json"
"""Once it has finished: `seconds` of its last session, `held_out_rollback`, `versions`."""

_CONF = Path(verl_cleaner.__file__).with_name("conf")
PER_RUN = (
    "algorithm",
    "data.seed",
    "actor_rollout_ref.rollout.multi_turn",
    "actor_rollout_ref.rollout.seed",
    "actor_rollout_ref.rollout.calculate_log_probs",
    "actor_rollout_ref.rollout.val_kwargs",
    "trainer",
)
_OF_WORKERS = (
    "algorithm.use_dpo_on_tool_calls",
    "algorithm.adv_estimator",
    "algorithm.use_kl_in_reward",
    "trainer.device",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "trainer.total_training_steps",
    "trainer.total_epochs",
)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """overrides: all of Hydra's, those for files and folders too. settings: kept in the folder."""

    name: str
    folder: str
    settings: dict[str, Any]
    overrides: list[str]


@dataclass(frozen=True, slots=True)
class Plan:
    config_name: str
    runs: list[PlannedRun]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Plan":
        content = json.loads(path.read_text())
        return cls(content["config_name"], [PlannedRun(**run) for run in content["runs"]])


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """One of our configurations, as `verl_cleaner.main_ppo` composes it."""
    with hydra.initialize_config_dir(str(_CONF), version_base=None):
        return hydra.compose(config_name, list(overrides))


def worker_part(config: DictConfig) -> dict[str, Any]:
    """What the workers that all runs share are built from."""
    shared = copy.deepcopy(config)
    kept = {key: OmegaConf.select(config, key) for key in _OF_WORKERS}
    with open_dict(shared):
        for key in PER_RUN:
            parent, _, name = key.rpartition(".")
            (OmegaConf.select(shared, parent) if parent else shared).pop(name)
    # Interpolations may lead to what was taken out.
    return {**OmegaConf.to_container(shared, resolve=False), **kept}  # type: ignore[dict-item]


def of_workers(overrides: Sequence[str]) -> tuple[str, ...]:
    """Those of Hydra's overrides that change what the workers are built from."""
    keys = [(override_key(override), override) for override in overrides]
    return tuple(text for key, text in keys if _within(key, _OF_WORKERS) or not _within(key, PER_RUN))


def override_key(override: str) -> str:
    """What one of Hydra's overrides sets, adds or deletes."""
    return override.lstrip("+~").partition("=")[0]


def _within(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def differences(one: Any, other: Any, key: str = "") -> list[str]:
    """Keys at which two configurations differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted({*one, *other}, key=str)
        return [found for name in names for found in differences(one.get(name), other.get(name), f"{key}.{name}")]
    return [] if one == other else [f"{key.lstrip('.')} ({one!r} and {other!r})"]
