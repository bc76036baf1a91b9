"""Run a grid: `recipe/cleaner/experiments/run.sh` behind its environment and judge.

Finished runs are kept, interrupted ones go on from their last checkpoint; at the end, and when stopped, all that is
finished is collected into OUT/results.parquet.
"""

import argparse
import sys
from pathlib import Path

from cleaner_lab.experiments import words
from cleaner_lab.experiments.experiment import RESULTS, Experiment
from cleaner_lab.experiments.grid import GridError
from cleaner_lab.experiments.grid_file import read_grid

_GRID = Path("recipe/cleaner/experiments/nano.yaml")
_GOES_ON = "the same command goes on with what is left"


def main() -> None:
    options, overrides = _parse()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        grid = read_grid(options.grid)
        runs = grid.runs(methods=options.methods, seeds=options.seeds, steps=options.steps)
        out: Path = options.out or Path("outputs/experiments") / grid.name
        experiment = Experiment(grid, grid.prepare_cold_start(Path("outputs/nano")), out, tuple(overrides))
        left = experiment.left(runs)
    except GridError as error:
        sys.exit(f"[cleaner] error: {error}")
    except KeyboardInterrupt:
        sys.exit("\n[cleaner] stopped")
    print(f"[cleaner] {grid.name}: {len(runs)} runs, {len(runs) - len(left)} of them done already; in {out}")
    failures, stopped = [], False
    try:
        failures = experiment.run(left, groups=options.parallel)
    except KeyboardInterrupt:
        stopped = True
    print(f"[cleaner] results of {experiment.collect()} runs: {out / RESULTS}")
    for failure in failures:
        print(f"[cleaner] error: {failure}", file=sys.stderr)
    if failures or stopped:
        sys.exit(f"[cleaner] {'stopped; ' if stopped else ''}{_GOES_ON}")
    print(f"[cleaner] tables and figures: python -m cleaner_lab.experiments.report {out / RESULTS} --out {out}")


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="run.sh", allow_abbrev=False, usage="%(prog)s [GRID] [options] [key=value ...]", description=__doc__
    )
    parser.add_argument("--out", type=Path, help="default: outputs/experiments/NAME")
    parser.add_argument("--methods", type=_names, default=(), help="only these, separated by commas")
    parser.add_argument("--seeds", type=_seeds, default=(), help="only these of the grid's, separated by commas")
    parser.add_argument("--steps", type=_at_least_1, help="RL steps of a run, instead of the grid's")
    parser.add_argument(
        "--parallel", type=_at_least_1, default=1, help="groups of processes side by side (default: %(default)s)"
    )
    parser.epilog = f"GRID: a YAML file (default: {_GRID}); key=value: Hydra overrides of every run"
    options, file, overrides = words.parse(parser, _GRID, called="grids")
    options.grid = file
    return options, overrides


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names separated by commas")
    return names


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in _names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers separated by commas") from None


def _at_least_1(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    main()
