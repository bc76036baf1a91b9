"""From run folders to the file."""

import os
from collections.abc import Sequence
from pathlib import Path

from verl_cleaner.report import evaluations
from verl_cleaner.report.folder import find_runs
from verl_cleaner.report.grouping import groups
from verl_cleaner.report.page import Options, render
from verl_cleaner.report.run import names, read_run

MAX_TRAJECTORIES = 2000


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    limit: int = MAX_TRAJECTORIES,
    refresh: int = 0,
    title: str = "",
    evaluated: Sequence[Path] = (),
) -> list[str]:
    """Write the report of all runs in `paths` to `out`; returns its warnings.

    evaluated: folders of evaluations; those that lie in a run's folder are found.

    Raises:
        ValueError: a path holds no run, or a folder no evaluation.
    """
    folders = [folder for path in paths for folder in find_runs(path)]
    titles = names([folder.path for folder in folders])
    runs = [
        read_run(folder, name=title, limit=max(1, limit // len(folders)))
        for folder, title in zip(folders, titles, strict=True)
    ]
    reports = dict.fromkeys([*evaluations.find([folder.path for folder in folders]), *evaluated])
    rows = [row for folder in reports for row in evaluations.read(folder)]
    options = Options(
        title=title or " · ".join(group.name for group in groups(runs)), refresh=refresh, evaluations=rows
    )
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(render(runs, options), encoding="utf-8")
    os.replace(partial, out)
    return [f"{run.name}: {text}" for run in runs for text in run.warnings.texts]
