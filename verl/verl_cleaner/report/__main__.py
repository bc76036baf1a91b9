"""`python -m verl_cleaner.report RUN [RUN …] [-o report.html] [--watch]`: the runs in one self-contained HTML file."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from verl_cleaner.report.folder import find_runs
from verl_cleaner.report.write import MAX_TRAJECTORIES, write_report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m verl_cleaner.report", description=(__doc__ or "").partition(":")[2]
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run, or of several")
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="default: %(default)s")
    parser.add_argument("--title", default="", help="of the page; else the runs' names")
    parser.add_argument(
        "--evaluation",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="evaluations to show beside the runs: the bare policy against test-time rollback",
    )
    parser.add_argument(
        "--trajectories", type=int, default=MAX_TRAJECTORIES, help="how many to show at most (default: %(default)s)"
    )
    parser.add_argument("--watch", action="store_true", help="write it anew while the run goes on, until Ctrl-C")
    parser.add_argument("--interval", type=int, default=20, help="seconds between looks with --watch")
    options = parser.parse_args(argv)
    for name in ("trajectories", "interval"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    try:
        if options.watch:
            return _watch(options)
        warnings = _write(options)
    except ValueError as error:
        parser.error(str(error))
    _say(options.out, warnings)
    return 0


def _write(options: argparse.Namespace, refresh: int = 0) -> list[str]:
    return write_report(
        options.runs,
        options.out,
        limit=options.trajectories,
        refresh=refresh,
        title=options.title,
        evaluated=options.evaluation,
    )


def _watch(options: argparse.Namespace) -> int:
    """The last page written does not refresh itself any more."""
    seen: object = None
    try:
        while True:
            state = _state(options.runs)
            if state is None and seen is None:
                print("waiting for the first metrics or trajectories", flush=True)
                seen = ()
            if state is not None and state != seen:
                seen = state
                warnings = _write(options, refresh=options.interval)
                print(time.strftime("%H:%M:%S"), end=" ")
                _say(options.out, warnings)
            time.sleep(options.interval)
    except KeyboardInterrupt:
        if seen:
            _write(options)
        print()
        return 0


def _state(paths: Sequence[Path]) -> list[tuple[str, int]] | None:
    """Changes when a run writes something that the report shows; None while a run that has begun has nothing yet."""
    try:
        folders = [folder for path in paths for folder in find_runs(path)]
    except ValueError:
        if all(path.is_dir() for path in paths):
            return None
        raise
    files = [folder.metrics for folder in folders if folder.metrics]
    files += [file for folder in folders for dump in folder.dumps for file in dump.steps.values()]
    return [(str(file), file.stat().st_size) for file in files]


def _say(out: Path, warnings: Sequence[str]) -> None:
    for text in warnings:
        print(f"warning: {text}", file=sys.stderr)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
