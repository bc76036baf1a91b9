"""The cells of a matrix, as its YAML file describes them (`recipe/cleaner/matrix.yaml`).

steps       RL steps of a cell
seconds     that a cell may take, from start to end
overrides   of every cell
platforms   name: {device: cpu or gpu, config_name, cold_start (as in a grid), needs: packages, overrides}
cells       name: {overrides, platforms (all), without, resume: True, seconds, script, and more overrides under a
            platform's name; for GPUs: gpus (1), needs: packages}

without     keys that the cell leaves out of the overrides of all
resume      the cell trains half of its steps, ends, and goes on from the checkpoint in processes of its own
script      a line of bash, run instead of VeRL's trainer with OUTPUT_DIR, STEPS and PYTHON in its environment
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from cleaner_lab.experiments.grid import ColdStart, GridError
from cleaner_lab.experiments.grid_file import read_cold_start, read_overrides
from cleaner_lab.experiments.plan import compose, override_key
from verl_cleaner.preflight.names import STOCK_DTYPE, dtype_name


@dataclass(frozen=True, slots=True)
class Platform:
    """needs: packages that its interpreter has to have."""

    name: str
    device: str
    config_name: str
    cold_start: Mapping[str, Any]
    overrides: tuple[str, ...]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """gpus: of the host, 0 on a platform without. steps: when training ends, for each of its processes."""

    platform: Platform
    name: str
    gpus: int
    needs: tuple[str, ...]
    overrides: tuple[str, ...]
    steps: tuple[int, ...]
    seconds: float
    script: str | None = None

    @property
    def full_name(self) -> str:
        return f"{self.platform.name}/{self.name}"

    def fingerprint(self) -> str:
        """Of what decides the result, but for the cold start."""
        what = [self.platform.config_name, self.overrides, self.steps, self.script]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    def arguments(self, start: ColdStart, folder: Path, part: int) -> list[str]:
        """Hydra's, of `verl_cleaner.main_ppo`. part: which of its processes."""
        return [
            f"--config-name={self.platform.config_name}",
            f"hydra.run.dir={folder}/hydra",
            f"actor_rollout_ref.model.path={start.model}",
            f"data.train_files={start.train}",
            f"data.val_files={start.val}",
            f"trainer.experiment_name={self.full_name.replace('/', '_')}",
            f"trainer.default_local_dir={folder}/checkpoints",
            f"trainer.rollout_data_dir={folder}/rollouts",
            f"trainer.total_training_steps={self.steps[part]}",
            f"trainer.save_freq={self.steps[0] if len(self.steps) > 1 else -1}",
            f"trainer.resume_mode={'auto' if part else 'disable'}",
            *self.overrides,
        ]

    def composed(self) -> DictConfig:
        return compose(self.platform.config_name, self.overrides)


def facts(cell: Cell) -> dict[str, Any]:
    """What the table says of a cell's set-up, from its composed configuration."""
    if cell.script:
        return {"engine": cell.platform.name, "trainer": cell.script, "gpus": cell.gpus}
    config = cell.composed()
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    engine = OmegaConf.select(actor, "megatron" if actor.strategy == "megatron" else "fsdp_config")
    asked = engine.get("dtype", STOCK_DTYPE)
    given = (engine.get("mixed_precision") or {}).get("param_dtype")
    return {
        "engine": rollout.name,
        "trainer": actor.strategy,
        "mode": config.trainer.v1.trainer_mode,
        "precision": dtype_name(given or asked),
        "lora": config.actor_rollout_ref.model.lora_rank,
        "sequence_parallel": engine.get("ulysses_sequence_parallel_size") or engine.get("context_parallel_size") or 1,
        "estimator": config.algorithm.adv_estimator,
        "rescore": rollout.multi_turn.get("rollback_logprobs") == "rescore",
        "leaves": rollout.multi_turn.get("rollback_failed_calls") == "leaf",
        "resume": len(cell.steps) > 1,
        "gpus": cell.gpus,
        "processes": config.trainer.n_gpus_per_node,
    }


def read_matrix(path: Path, *, steps: int | None = None, more: tuple[str, ...] = ()) -> list[Cell]:
    """Args:
        steps: instead of the file's. more: Hydra overrides of every cell.

    Raises GridError with the file, the key, what was got and what is expected.
    """
    if not path.is_file():
        raise GridError(f"{path} does not exist (seen from {Path.cwd()}), expected the YAML file of a matrix")
    content = yaml.safe_load(path.read_text())
    try:
        _known(content, "the file", {"steps", "seconds", "overrides", "platforms", "cells"})
        platforms = {name: _platform(name, value) for name, value in content["platforms"].items()}
        found = [
            cell
            for name, value in content["cells"].items()
            for cell in _cells(name, value or {}, content | {"steps": steps or content["steps"]}, platforms, more)
        ]
    except GridError as error:
        raise GridError(f"{path}: {error}") from None
    order = list(platforms)
    return sorted(found, key=lambda cell: order.index(cell.platform.name))


def _platform(name: str, value: dict[str, Any]) -> Platform:
    key = f"platforms.{name}"
    _known(value, key, {field.name for field in fields(Platform)} - {"name"})
    if value.get("device") not in ("cpu", "gpu"):
        raise GridError(f"{key}.device: got {value.get('device')!r}, expected cpu or gpu")
    overrides = read_overrides(value.get("overrides", []), f"{key}.overrides")
    needs, start = tuple(value.get("needs", ())), read_cold_start(value.get("cold_start"))
    return Platform(name, value["device"], value["config_name"], start, overrides, needs)


_CELL_KEYS = {"overrides", "platforms", "without", "gpus", "needs", "resume", "seconds", "script"}


def _cells(
    name: str, value: dict[str, Any], content: dict[str, Any], platforms: dict[str, Platform], more: tuple[str, ...]
) -> Iterator[Cell]:
    key = f"cells.{name}"
    _known(value, key, _CELL_KEYS | platforms.keys())
    everywhere = read_overrides(content.get("overrides", []), "overrides")
    steps, common = content["steps"], read_overrides(value.get("overrides", []), f"{key}.overrides")
    for on in value.get("platforms", platforms):
        if on not in platforms:
            raise GridError(f"{key}.platforms: got {on!r}, expected some of {sorted(platforms)}")
        platform, own = platforms[on], read_overrides(value.get(on, []), f"{key}.{on}")
        on_gpus = platform.device == "gpu"
        shared, left_out = (*everywhere, *platform.overrides), value.get("without", ())
        yield Cell(
            platform,
            name,
            gpus=value.get("gpus", 1) if on_gpus else 0,
            needs=(*platform.needs, *(value.get("needs", ()) if on_gpus else ())),
            overrides=(*(text for text in shared if override_key(text) not in left_out), *common, *own, *more),
            steps=(max(1, steps // 2), steps) if value.get("resume") else (steps,),
            seconds=float(value.get("seconds", content["seconds"])),
            script=value.get("script"),
        )


def _known(value: Any, key: str, expected: set[str]) -> None:
    if not isinstance(value, dict) or value.keys() - expected:
        raise GridError(f"{key}: got {value!r}, expected keys out of {sorted(expected)}")
