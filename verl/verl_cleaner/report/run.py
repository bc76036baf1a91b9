"""A run as the report shows it: metrics by step, configuration, and a sample of its trajectories."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_cleaner.records import run_info
from verl_cleaner.report import dumps
from verl_cleaner.report.dumps import Warnings, number
from verl_cleaner.report.families import HeldOut, read_held_out
from verl_cleaner.report.folder import RunFolder
from verl_cleaner.report.read import read_trajectories
from verl_cleaner.report.trajectory import Trajectory


@dataclass(slots=True)
class Run:
    """steps: logged metrics by step. info: run.json without configuration and versions. held_out: accuracies of the
    validations' tasks. total: number of trajectories in the dumps, of which `trajectories` is a sample."""

    name: str
    folder: Path
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    held_out: HeldOut | None = None
    trajectories: list[Trajectory] = field(default_factory=list)
    total: int = 0
    warnings: Warnings = field(default_factory=Warnings)

    def said(self) -> list[str]:
        """The warnings, each with the name of the run."""
        return [text if text.startswith(f"{self.name}:") else f"{self.name}: {text}" for text in self.warnings.texts]


def read_run(folder: RunFolder, *, name: str, limit: int) -> Run:
    """Read a run with about `limit` trajectories at most, in whole groups.

    Raises:
        ValueError: a file of chat messages holds no row that can be read; names line and key.
    """
    run = Run(name, folder.path)
    if folder.metrics is not None:
        run.steps = _metrics(folder.metrics, run.warnings)
    elif folder.path.is_dir() and not any(dump.chat for dump in folder.dumps):
        run.warnings.add("no metrics.jsonl: the curves need trainer.logger=[file,…]")
    _read_config(folder, run)
    run.held_out = read_held_out(folder.dumps, run.warnings)
    run.trajectories, run.total = read_trajectories(folder.dumps, limit, run.warnings)
    if not folder.dumps:
        run.warnings.add("no dumps of trajectories: they need trainer.rollout_data_dir=FOLDER")
    return run


def names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are different for all folders."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        short = ["/".join(p[-length:]) for p in parts]
        if len(set(short)) == len(short):
            return short
    return [f"{'/'.join(p[-1:])} {i + 1}" for i, p in enumerate(parts)]


def _metrics(path: Path, warnings: Warnings) -> dict[int, dict[str, float]]:
    steps: dict[int, dict[str, float]] = {}
    for entry in dumps.objects(path, warnings, needs="data"):
        step, data = entry.get("step"), entry["data"]
        if isinstance(step, int) and isinstance(data, dict):
            values = {str(key): number(value) for key, value in data.items()}
            steps.setdefault(step, {}).update({key: value for key, value in values.items() if value is not None})
    return dict(sorted(steps.items()))


def _read_config(folder: RunFolder, run: Run) -> None:
    try:
        if folder.info is not None:
            info = run_info.read(folder.info)
            run.config, run.versions = flat(info.pop("config")), dict(info.pop("versions", None) or {})
            run.info = {str(key): value for key, value in run_info.redact(info).items()}
        elif folder.hydra is not None:
            from omegaconf import OmegaConf

            run.config = flat(OmegaConf.to_container(OmegaConf.load(folder.hydra), resolve=False))
    except Exception as error:
        run.warnings.add(f"the configuration cannot be read: {type(error).__name__}: {error}".splitlines()[0])


def flat(config: Any) -> dict[str, str]:
    """Dotted key -> value as text, without secrets."""
    return dict(_leaves(run_info.redact(config), ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, "null" if value is None else str(value)
