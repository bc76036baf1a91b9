"""Find the files of a run: of our quickstart, of a recipe, or of VeRL with other folders."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from verl_cleaner.records import run_info
from verl_cleaner.records.metrics import WITH_ROLLBACK
from verl_cleaner.report.chat_rows import is_chat_file
from verl_cleaner.report.dumps import Warnings, objects

_STEP_FILE = re.compile(r"\d+\.jsonl")
_LEFT_OUT = ("rollbacks", "trajectories", WITH_ROLLBACK.rstrip("/"))
"""Our tables, and the validation with rollback at test time, which shows the same tasks once more."""
_DEPTH = 2


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"


@dataclass(frozen=True, slots=True)
class DumpFolder:
    """Files by step: VeRL's dumps, `<step>.jsonl`, or files of chat messages."""

    split: Split
    path: Path
    steps: dict[int, Path]
    chat: bool = False


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run. metrics, info, hydra: None if there is no such file."""

    path: Path
    metrics: Path | None = None
    info: Path | None = None
    hydra: Path | None = None
    dumps: list[DumpFolder] = field(default_factory=list)


def find_runs(path: Path) -> list[RunFolder]:
    """The run in `path`; without one, the runs in the folders directly below, as `quickstart.sh` writes them.

    path: of a folder, or of one file of rollouts: VeRL's dump, or chat messages of another framework.

    Raises:
        ValueError: there is nothing to show.
    """
    if path.is_file():
        return [_file(path)]
    if not path.is_dir():
        raise ValueError(
            f"{path} is no folder and no file; expected the output folder of a run, with metrics.jsonl or rollouts, "
            "or a file of rollouts"
        )
    own = _look(path, 0)
    if own.metrics or own.dumps:
        return [own]
    below = [_look(child, 1) for child in sorted(path.iterdir()) if child.is_dir()]
    found = [run for run in below if run.metrics or run.dumps] or _chats(path)
    if not found:
        raise ValueError(
            f"{path} holds no metrics.jsonl and no dumps <step>.jsonl, neither do the folders below; a run writes them "
            "with trainer.logger=[file], trainer.rollout_data_dir=FOLDER and trainer.validation_data_dir=FOLDER"
        )
    return found


def _file(path: Path) -> RunFolder:
    if is_chat_file(path):
        return _chats(path.parent, [path])[0]
    if not any(True for _ in objects(path, Warnings(), needs="output")):
        raise ValueError(
            f"{path} holds no rollouts that can be read; expected JSON lines with the keys input and output, as VeRL "
            "dumps them, or with chat messages under messages, conversations, or prompt and completion"
        )
    return RunFolder(path, dumps=[DumpFolder(_split(path.name), path.parent, {_number(path): path})])


def _chats(folder: Path, files: Sequence[Path] = ()) -> list[RunFolder]:
    """All files of chat messages in a folder as one run; no run if there are none."""
    found = [file for file in files or sorted(folder.iterdir()) if file.is_file() and is_chat_file(file)]
    dumps = [DumpFolder(_split(file.name), folder, {_number(file): file}, chat=True) for file in found]
    return [RunFolder(found[0] if files else folder, dumps=dumps)] if found else []


def _split(name: str) -> Split:
    return Split.VALIDATION if re.search(r"val|eval|test", name.lower()) else Split.TRAIN


def _number(file: Path) -> int:
    """The step: the last number in the file's name, else 0."""
    numbers = re.findall(r"\d+", file.stem)
    return int(numbers[-1]) if numbers else 0


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
    """metrics.jsonl, else any file of VeRL's file logger, which writes to VERL_FILE_LOGGER_PATH."""
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
    files = dict(sorted(steps.items()))
    return DumpFolder(_split(name), folder, files, chat=is_chat_file(next(iter(files.values()))))
