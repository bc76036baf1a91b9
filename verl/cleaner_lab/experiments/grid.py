"""A grid of runs, method × seed, and the cold start that they share. `grid_file` reads it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleaner_lab.nano import shipped
from cleaner_lab.nano.cold_start import cold_start
from cleaner_lab.nano.settings import Settings

NANO = "nano"


class GridError(ValueError):
    """The grid, or what is asked of it, is not what it should be."""


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What every run starts from: a Hugging Face folder and the data."""

    model: Path
    train: Path
    val: Path

    def digest(self) -> str:
        """SHA-256 over the files of the model's folder and both data files."""
        if not list(self.model.glob("*.safetensors")):
            raise GridError(f"cold_start.model={self.model} has no *.safetensors, expected a Hugging Face folder")
        digest = hashlib.sha256()
        files = sorted(file for file in self.model.iterdir() if file.is_file())
        for file in (*files, self.train, self.val):
            if not file.is_file():
                raise GridError(f"cold_start: {file} does not exist")
            with file.open("rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class GridRun:
    """overrides: Hydra's, without those that name files and folders."""

    method: str
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.method}/seed{self.seed}"

    def fingerprint(self, config_name: str, start: str) -> str:
        """Of what decides the result: configuration, overrides and the cold start with digest `start`."""
        return hashlib.sha256(json.dumps([config_name, self.overrides, start]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Grid:
    name: str
    config_name: str
    cold_start: Mapping[str, Any]
    steps: int
    overrides: tuple[str, ...]
    methods: tuple[Method, ...]

    def runs(
        self, *, methods: Iterable[str] = (), seeds: Iterable[int] = (), steps: int | None = None
    ) -> list[GridRun]:
        """All methods of one seed before the next seed's, so that an unfinished grid is a comparison too.

        Args:
            methods, seeds: only these; empty: all of the grid's. steps: instead of the grid's.
        """
        names, wanted = list(methods), list(seeds)
        known = [method.name for method in self.methods]
        for name in names:
            if name not in known:
                raise GridError(f"unknown method {name!r}; the grid {self.name} has {', '.join(known)}")
        chosen = [method for method in self.methods if not names or method.name in names]
        runs = [
            GridRun(method.name, seed, (*self._common(seed, steps or self.steps), *self.overrides, *method.overrides))
            for seed in sorted({seed for method in chosen for seed in method.seeds})
            for method in chosen
            if seed in method.seeds and (not wanted or seed in wanted)
        ]
        if not runs:
            having = ", ".join(f"{method.name} {list(method.seeds)}" for method in chosen)
            raise GridError(f"no run has a seed of {wanted}; the grid {self.name} has {having}")
        return runs

    def _common(self, seed: int, steps: int) -> tuple[str, ...]:
        return (
            f"data.seed={seed}",
            f"actor_rollout_ref.rollout.seed={seed}",
            f"trainer.total_training_steps={steps}",
        )

    def prepare_cold_start(self, folder: Path) -> ColdStart:
        return prepare_cold_start(self.cold_start, folder)


def prepare_cold_start(cold_start_of: Mapping[str, Any], folder: Path) -> ColdStart:
    """The one that is shipped where it has these settings; else made in `folder`, or the files that are named.

    Args:
        cold_start_of: what `grid_file.read_cold_start` returned.
    """
    if NANO not in cold_start_of:
        return ColdStart(*(Path(cold_start_of[key]) for key in ("model", "train", "val")))
    settings = Settings(**cold_start_of[NANO])
    _check_device(settings.device)
    if (out := shipped.find(settings)) is None:
        # The quickstart's with --fresh where they are its settings.
        same = settings == Settings(seed=settings.seed)
        out = folder / (f"seed{settings.seed}" if same else settings.fingerprint())
        cold_start(out, settings)
    return ColdStart(out / "model", out / "data/train.parquet", out / "data/val.parquet")


def _check_device(device: str) -> None:
    import torch

    if device not in ("cpu", "cuda"):
        raise GridError(f"cold_start.nano.device: got {device!r}, expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise GridError("cold_start.nano.device=cuda, but PyTorch sees no GPU; use a machine with one, or device: cpu")
