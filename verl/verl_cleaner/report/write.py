"""Make the report of run folders, and write it to a file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_cleaner.report import evaluations
from verl_cleaner.report.folder import find_runs
from verl_cleaner.report.grouping import groups
from verl_cleaner.report.page import Options, render
from verl_cleaner.report.run import names, read_run

MAX_TRAJECTORIES = 2000


def make_report(
    paths: Sequence[Path],
    *,
    limit: int = MAX_TRAJECTORIES,
    refresh: int = 0,
    version: str = "",
    title: str = "",
    evaluated: Sequence[Path] = (),
) -> tuple[str, list[str]]:
    """The page of all runs in `paths`, and its warnings.

    limit: of trajectories. refresh, version: of `page.Options`.
    evaluated: folders of evaluations; those that lie in a run's folder are found.

    Raises:
        ValueError: a path holds no run, or a folder no evaluation.
    """
    folders = [folder for path in paths for folder in find_runs(path)]
    titles = names([folder.path for folder in folders])
    runs = [
        read_run(folder, name=name, limit=max(1, limit // len(folders)))
        for folder, name in zip(folders, titles, strict=True)
    ]
    reports = dict.fromkeys([*evaluations.find([folder.path for folder in folders]), *evaluated])
    options = Options(
        title=title or " · ".join(group.name for group in groups(runs)),
        refresh=refresh,
        version=version,
        evaluations=[row for folder in reports for row in evaluations.read(folder)],
    )
    return render(runs, options), [text for run in runs for text in run.said()]


def write_report(paths: Sequence[Path], out: Path, **options: Any) -> list[str]:
    """Write the page of `make_report` to the file `out`, in one step. Returns the warnings."""
    page, warnings = make_report(paths, **options)
    write_whole(out, page)
    return warnings


def write_whole(out: Path, page: str) -> None:
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, out)
