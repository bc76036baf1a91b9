"""Held-out accuracy by task family: the first and the last validation, with 95 % intervals over the tasks.

With several seeds, a task's accuracy is the mean over them. The numbers come from our own table of the validation,
which has the task of each trajectory. VeRL's metrics do not say how many tasks there are.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from verl_cleaner.records.metrics import WITH_ROLLBACK
from verl_cleaner.records.trajectories import Trajectory
from verl_cleaner.report import dumps
from verl_cleaner.report.dumps import Warnings
from verl_cleaner.report.folder import DumpFolder, Split
from verl_cleaner.report.intervals import estimate

Accuracies = Mapping[str, Mapping[str, float]]
"""family -> task -> mean accuracy of the task's samples."""
ALL = "all families"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The first and the last validation of a run for which there is a table. steps: of the two.

    helped: the last one repeated with rollback (`trainer.validate_with_rollback`); empty where it was not.
    """

    steps: tuple[int, int]
    first: Accuracies
    last: Accuracies
    helped: Accuracies = field(default_factory=dict)


def read_held_out(folders: Iterable[DumpFolder], warnings: Warnings) -> HeldOut | None:
    for folder in folders:
        steps = [step for step in folder.steps if (folder.path / "trajectories" / f"{step}.parquet").is_file()]
        if folder.split == Split.VALIDATION and steps:
            ends = {step: accuracies(dumps.outcomes(folder.path, step, warnings)) for step in (steps[0], steps[-1])}
            helped = accuracies(dumps.outcomes(folder.path / WITH_ROLLBACK, steps[-1], warnings))
            return HeldOut((steps[0], steps[-1]), ends[steps[0]], ends[steps[-1]], helped)
    return None


def accuracies(trajectories: Iterable[Trajectory]) -> Accuracies:
    """Accuracies of the trajectories whose reward function reports `acc`."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in trajectories:
        if row.acc is not None:
            task = row.problem or row.data_uid or row.uid
            found[row.data_source or row.suite or "tasks"][task].append(row.acc)
    return {
        family: {task: sum(values) / len(values) for task, values in tasks.items()} for family, tasks in found.items()
    }


def rows(found: Sequence[HeldOut]) -> list[dict[str, Any]]:
    """One row for all families and one for each. found: of one run, or of the runs of a group.

    A row has the number of tasks, the accuracies of the first and the last validation and of the last one with
    rollback, and on the same tasks: change, from the first to the last, and gain, from the last to that with rollback.
    """
    first, last, helped = (_mean([getattr(one, end) for one in found]) for end in ("first", "last", "helped"))
    table = [_row(name, first.get(name, {}), tasks, helped.get(name, {})) for name, tasks in sorted(last.items())]
    if len(table) > 1:
        table.insert(0, _row(ALL, *map(_together, (first, last, helped))))
    steps = sorted({one.steps for one in found})
    return [row | {"steps": list(steps[0]) if len(steps) == 1 else None} for row in table]


def _mean(found: Sequence[Accuracies]) -> Accuracies:
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        for family, tasks in one.items():
            for task, value in tasks.items():
                values[family][task].append(value)
    return {family: {task: sum(v) / len(v) for task, v in tasks.items()} for family, tasks in values.items()}


def _together(found: Accuracies) -> dict[tuple[str, str], float]:
    return {(family, task): value for family, tasks in found.items() for task, value in tasks.items()}


def _row(
    family: str, first: Mapping[Any, float], last: Mapping[Any, float], helped: Mapping[Any, float]
) -> dict[str, Any]:
    return {
        "family": family,
        "tasks": len(last),
        "first": _estimate(first.values()),
        "last": _estimate(last.values()),
        "change": _estimate([last[task] - first[task] for task in last if task in first]),
        "helped": _estimate(helped.values()),
        "gain": _estimate([helped[task] - last[task] for task in last if task in helped]),
    }


def _estimate(values: Iterable[float]) -> dict[str, float] | None:
    found = list(values)
    return asdict(estimate(found)) if found else None
