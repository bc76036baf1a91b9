"""`python -m verl_cleaner.report RUN [RUN …] [-o report.html] [--watch | --serve]`: the runs in one HTML page."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_cleaner.report.follow import State, state
from verl_cleaner.report.serve import serve
from verl_cleaner.report.write import MAX_TRAJECTORIES, make_report, write_report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m verl_cleaner.report", description=(__doc__ or "").partition(":")[2]
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run, or of several; or a file of rollouts"
    )
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
    live = parser.add_mutually_exclusive_group()
    live.add_argument("--watch", action="store_true", help="write it anew while the run goes on, until Ctrl-C")
    live.add_argument("--serve", action="store_true", help="serve it while the run goes on, until Ctrl-C")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=8642, help="0: a free one (default: %(default)s)")
    parser.add_argument(
        "--interval", type=int, default=20, help="seconds between two looks at the files (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    for name in ("trajectories", "interval"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    try:
        if options.watch:
            return _watch(options)
        if options.serve:
            return _serve(options)
        warnings = write_report(options.runs, options.out, **_content(options))
    except ValueError as error:
        parser.error(str(error))
    _say(options.out, warnings)
    return 0


def _content(options: argparse.Namespace) -> dict[str, Any]:
    return {"limit": options.trajectories, "title": options.title, "evaluated": options.evaluation}


def _serve(options: argparse.Namespace) -> int:
    said: set[str] = set()

    def make(version: str) -> str:
        page, warnings = make_report(options.runs, version=version, **_content(options))
        _warn([text for text in warnings if text not in said])
        said.update(warnings)
        return page

    serve(options.runs, make, host=options.host, port=options.port, interval=options.interval)
    return 0


def _watch(options: argparse.Namespace) -> int:
    """Write the file until Ctrl-C. The last page does not load itself again."""
    seen: State | None = None
    try:
        while True:
            found = state(options.runs)
            if found is None and seen is None:
                print("waiting for the first metrics or trajectories", flush=True)
                seen = ()
            if found is not None and found != seen:
                seen = found
                warnings = write_report(options.runs, options.out, refresh=options.interval, **_content(options))
                print(time.strftime("%H:%M:%S"), end=" ")
                _say(options.out, warnings)
            time.sleep(options.interval)
    except KeyboardInterrupt:
        if seen:
            write_report(options.runs, options.out, **_content(options))
        print()
        return 0


def _say(out: Path, warnings: Sequence[str]) -> None:
    _warn(warnings)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", flush=True)


def _warn(warnings: Sequence[str]) -> None:
    for text in warnings:
        print(f"warning: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
