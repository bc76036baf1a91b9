"""A few trajectories as one small page: it can be sent to someone who has neither the run nor its report."""

from collections.abc import Sequence

from verl_cleaner.report.about import about
from verl_cleaner.report.page import Options, render
from verl_cleaner.report.run import Run
from verl_cleaner.report.trajectory import Trajectory

MAX_SHARED = 50


def share(found: Sequence[tuple[Run, Sequence[Trajectory]]]) -> str:
    """The page. It names the run; configuration, command and metrics are left out."""
    runs = [_alone(run, rows) for run, rows in found if rows]
    titles = [_title(run, rows[0]) for run, rows in found if rows]
    return render(runs, Options(title=titles[0] if len(titles) == 1 else "Trajectories", alone=True))


def _alone(run: Run, rows: Sequence[Trajectory]) -> Run:
    return Run(run.name, run.folder, trajectories=list(rows), total=len(rows))


def _title(run: Run, first: Trajectory) -> str:
    parts = [about(run).get("model", ""), run.name, f"step {first.step}"]
    return " · ".join(part for part in parts if part)
