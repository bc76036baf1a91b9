"""Where the files of a run are, whoever wrote them: our quickstart, a recipe, or VeRL with folders of one's own."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from verl_cleaner.records import run_info
from verl_cleaner.records.metrics import WITH_ROLLBACK

_STEP_FILE = re.compile(r"\d+\.jsonl")
_LEFT_OUT = ("rollbacks", "trajectories", WITH_ROLLBACK.rstrip("/"))
"""Our tables, and the validation with rollback at test time, which shows the same tasks once more."""
_DEPTH = 2


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"


@dataclass(frozen=True, slots=True)
class DumpFolder:
    """A folder of VeRL's dumps, `<step>.jsonl`, by step."""

    split: Split
    path: Path
    steps: dict[int, Path]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """metrics, info, hydra: None where there is no such file."""

    path: Path
    metrics: Path | None = None
    info: Path | None = None
    hydra: Path | None = None
    dumps: list[DumpFolder] = field(default_factory=list)


def find_runs(path: Path) -> list[RunFolder]:
    """The run in `path`, or where it holds none, those in the folders directly below, as `quickstart.sh` writes them.

    Raises:
        ValueError: there is nothing to show.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; expected the output folder of a run, with metrics.jsonl or rollouts")
    own = _look(path, 0)
    if own.metrics or own.dumps:
        return [own]
    below = [_look(child, 1) for child in sorted(path.iterdir()) if child.is_dir()]
    found = [run for run in below if run.metrics or run.dumps]
    if not found:
        raise ValueError(
            f"{path} holds no metrics.jsonl and no dumps <step>.jsonl, neither do the folders below; a run writes them "
            "with trainer.logger=[file], trainer.rollout_data_dir=FOLDER and trainer.validation_data_dir=FOLDER"
        )
    return found


def _look(path: Path, level: int) -> RunFolder:
    folders = [path, *_below(path, _DEPTH if level else 1)]
    dumps = [dump for folder in folders if (dump := _dump(folder, path)) is not None]
    info = next((file for folder in folders if (file := folder / run_info.FILE).is_file()), None)
    return RunFolder(
        path,
        metrics=_metrics(path),
        info=info,
        hydra=next((file for file in sorted(path.glob("*/.hydra/config.yaml"))), None),
        dumps=dumps,
    )


def _below(path: Path, depth: int) -> list[Path]:
    if depth == 0:
        return []
    children = [child for child in sorted(path.iterdir()) if child.is_dir() and child.name not in _LEFT_OUT]
    return children + [found for child in children for found in _below(child, depth - 1)]


def _metrics(path: Path) -> Path | None:
    """VeRL's file logger writes where VERL_FILE_LOGGER_PATH says; ours to metrics.jsonl."""
    if (path / "metrics.jsonl").is_file():
        return path / "metrics.jsonl"
    for file in sorted(path.glob("*.jsonl")):
        with file.open("rb") as lines:
            if re.match(rb'\{"step":\s*\d+,\s*"data":', lines.read(200)):
                return file
    return None


def _dump(folder: Path, run: Path) -> DumpFolder | None:
    steps = {int(file.stem): file for file in folder.iterdir() if _STEP_FILE.fullmatch(file.name)}
    if not steps:
        return None
    name = str(folder.relative_to(run)) if folder != run else folder.name
    split = Split.VALIDATION if re.search(r"val|eval|test", name.lower()) else Split.TRAIN
    return DumpFolder(split, folder, dict(sorted(steps.items())))
