"""Read a sample of a run's trajectories in whole groups, from VeRL's dumps and ours or from files of chat messages."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from verl_cleaner.report import chat_files, chat_rows, dumps, sampling
from verl_cleaner.report.dumps import Warnings
from verl_cleaner.report.folder import DumpFolder
from verl_cleaner.report.trajectory import Trajectory, joined

Row = TypeVar("Row")


def read_trajectories(folders: Sequence[DumpFolder], limit: int, warnings: Warnings) -> tuple[list[Trajectory], int]:
    """(about `limit` trajectories at most, number of all trajectories in the files that were read).

    One file at a time is in memory."""
    files = []
    for folder in folders:
        steps = sampling.pick_steps(folder.steps)
        files += [(folder, step) for step in steps]
        if len(steps) < len(folder.steps):
            warnings.add(f"{folder.path.name}: {len(steps)} of {len(folder.steps)} steps are read, evenly chosen")
    counts = [(chat_rows.count if folder.chat else dumps.count_lines)(folder.steps[step]) for folder, step in files]
    found: list[Trajectory] = []
    shares = zip(files, sampling.shares(counts, limit), strict=True)
    for (folder, step), share in tqdm(list(shares), desc="reading steps", delay=3, leave=False, disable=None):
        if share:
            found += _read(folder, step, share, warnings)
    found.sort(key=lambda t: (t.split, t.step))
    return found, sum(counts)


def _read(folder: DumpFolder, step: int, share: int, warnings: Warnings) -> Iterator[Trajectory]:
    if folder.chat:
        rows = chat_files.read_groups(folder, step, warnings)
        return chat_files.trajectories(folder, step, _picked(rows, share))
    return joined(folder, step, _picked(_verl_groups(folder, step, warnings), share), warnings)


def _picked(groups: Mapping[str, list[Row]], share: int) -> dict[str, list[Row]]:
    """Whole groups with about `share` rows together, in the order of their keys."""
    picked = sampling.pick_groups({key: len(group) for key, group in groups.items()}, share)
    return {key: groups[key] for key in sorted(picked)}


def _verl_groups(folder: DumpFolder, step: int, warnings: Warnings) -> dict[str, list[dict[str, Any]]]:
    """The rows of a step by prompt. The keys sort in the order in which prompts are sampled."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line, row in dumps.numbered(folder.steps[step], warnings, needs="output"):
        if (score := row.get("score")) is not None and not isinstance(score, (int, float)):
            warnings.add(
                f"{folder.path.name}/{step}.jsonl: line {line}: score: expected a number, got {score!r:.60}; shown "
                "without a score, as are all such lines"
            )
        key = sampling.order(folder.split, step, str(row.get("input", "")))
        groups[key].append(row)
    return groups
