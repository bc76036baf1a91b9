"""Whether the files of a run have changed since the last look."""

from collections.abc import Sequence
from pathlib import Path

from verl_cleaner.report.folder import find_runs

State = tuple[tuple[str, int, int], ...]
"""Path, size in bytes and time of the last change in nanoseconds, of each file that the report shows."""


def state(paths: Sequence[Path]) -> State | None:
    """A value that changes when a run writes something. None while the runs have written nothing yet.

    Raises:
        ValueError: a path is no folder.
    """
    try:
        folders = [folder for path in paths for folder in find_runs(path)]
    except ValueError:
        if all(path.is_dir() for path in paths):
            return None
        raise
    files = [folder.metrics for folder in folders if folder.metrics]
    files += [file for folder in folders for dump in folder.dumps for file in dump.steps.values()]
    found = []
    for file in files:
        try:
            status = file.stat()
        except FileNotFoundError:  # the run has replaced the file meanwhile
            continue
        found.append((str(file), status.st_size, status.st_mtime_ns))
    return tuple(found)
