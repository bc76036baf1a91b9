"""Run a grid: `recipe/cleaner/experiments/run.sh` behind its environment and judge.

Finished runs are kept, interrupted ones go on from their last checkpoint. Several groups of processes may work side by
side, each through a series of runs (`series.py`); at the end everything is collected into OUT/results.parquet.
"""

import argparse
import itertools
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_cleaner.experiments import results
from verl_cleaner.experiments.grid import ColdStart, Grid, GridError, GridRun, read_grid
from verl_cleaner.experiments.series import DONE, Plan, PlannedRun, of_workers
from verl_cleaner.nano.curves import held_out_accuracy
from verl_cleaner.run import MetricsFile, RunFailed, Training, logger_environment

RESULTS = "results.parquet"
_POLL_SECONDS = 0.5


def main() -> None:
    options, overrides = _parse()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        grid = read_grid(options.grid)
        runs = grid.runs(methods=options.methods, seeds=options.seeds, steps=options.steps)
        out: Path = options.out or Path("outputs/experiments") / grid.name
        start = grid.prepare_cold_start(Path("outputs/nano"))
        experiment = Experiment(grid, start, out, tuple(overrides))
        left = experiment.left(runs)
        print(f"[cleaner] {grid.name}: {len(runs)} runs, {len(runs) - len(left)} of them done already; in {out}")
        failures = experiment.run(left, groups=options.parallel)
    except GridError as error:
        sys.exit(f"[cleaner] error: {error}")
    except KeyboardInterrupt:
        sys.exit("\n[cleaner] stopped; the same command goes on with what is left")
    print(f"[cleaner] results of {experiment.collect()} runs: {out / RESULTS}")
    for failure in failures:
        print(f"[cleaner] error: {failure}", file=sys.stderr)
    if failures:
        sys.exit("[cleaner] the same command goes on with what is left")
    print(f"[cleaner] tables and figures: python -m verl_cleaner.experiments.report {out / RESULTS} --out {out}")


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="run.sh", allow_abbrev=False, usage="%(prog)s [GRID] [options] [key=value ...]", description=__doc__
    )
    default = Path("recipe/cleaner/experiments/nano.yaml")
    parser.add_argument("grid", nargs="?", type=Path, default=default, help="YAML file (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="default: outputs/experiments/NAME")
    parser.add_argument("--methods", type=_names, default=(), help="only these, separated by commas")
    parser.add_argument("--seeds", type=_seeds, default=(), help="only these, separated by commas")
    parser.add_argument("--steps", type=int, help="RL steps of a run, instead of the grid's")
    parser.add_argument(
        "--parallel", type=int, default=1, help="groups of processes side by side (default: %(default)s)"
    )
    options, rest = parser.parse_known_args()
    if options.grid and "=" in str(options.grid) and not options.grid.exists():
        rest.insert(0, str(options.grid))
        options.grid = default
    for text in rest:
        if "=" not in text or text.startswith("--"):
            parser.error(f"unknown argument {text!r}; expected an option above or a Hydra override key=value")
    for name in ("steps", "parallel"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return options, rest


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(seed) for seed in _names(text))


@dataclass(slots=True)
class Experiment:
    """overrides: the user's, for every run."""

    grid: Grid
    start: ColdStart
    out: Path
    overrides: tuple[str, ...]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.digest = self.start.digest()

    def left(self, runs: list[GridRun]) -> list[GridRun]:
        """Those that are not done. Raises GridError where a folder holds a run of other settings."""
        return [run for run in runs if not self._is_done(run)]

    def _is_done(self, run: GridRun) -> bool:
        folder = self.out / run.name
        begun, done = folder / "settings.json", folder / DONE
        if begun.exists() and json.loads(begun.read_text())["fingerprint"] != self._fingerprint(run):
            raise GridError(
                f"{folder} holds a run of other settings or another cold start (see {begun}); "
                "delete it or name another folder with --out"
            )
        return done.exists()

    def _fingerprint(self, run: GridRun) -> str:
        return GridRun(run.method, run.seed, (*run.overrides, *self.overrides)).fingerprint(self.digest)

    def planned(self, run: GridRun) -> PlannedRun:
        folder = self.out / run.name
        files = (
            f"actor_rollout_ref.model.path={self.start.model}",
            f"data.train_files={self.start.train}",
            f"data.val_files={self.start.val}",
            f"trainer.experiment_name={run.name.replace('/', '_')}",
            f"trainer.default_local_dir={folder}/checkpoints",
            "trainer.resume_mode=auto",
        )
        overrides = [*files, *run.overrides, *self.overrides]
        return PlannedRun(run.name, str(folder), self._fingerprint(run), overrides)

    def run(self, runs: list[GridRun], *, groups: int) -> list[str]:
        """Runs whose workers are alike share a group of processes, `groups` of which work side by side. Returns what
        went wrong, a line a group."""
        alike: dict[tuple[str, ...], list[GridRun]] = {}
        for run in runs:
            alike.setdefault(of_workers(run.overrides), []).append(run)
        waiting = [share for part in alike.values() for number in range(groups) if (share := part[number::groups])]
        failures = []
        working: list[_Group] = []
        numbers = itertools.count()
        with ExitStack() as stack:
            while waiting or working:
                while waiting and len(working) < groups:
                    working.append(_Group(self, next(numbers), waiting.pop(0), stack))
                for group in list(working):
                    try:
                        if not group.ended():
                            continue
                    except RunFailed as error:
                        failures.append(str(error))
                    working.remove(group)
                time.sleep(_POLL_SECONDS)
        return failures

    def collect(self) -> int:
        """Write OUT/results.parquet from the runs of the folder that are done; returns how many those are."""
        observations: list[tuple[Any, ...]] = []
        methods: dict[str, list[str]] = {}
        seconds, versions = {}, {}
        finished = sorted(self.out.glob(f"*/seed*/{DONE}"))
        for done in finished:
            method, seed = done.parent.parent.name, int(done.parent.name.removeprefix("seed"))
            summary = json.loads(done.read_text())
            steps = results.read_steps(done.parent / "metrics.jsonl")
            observations += results.rows(method, seed, steps, summary["held_out_rollback"])
            methods[method] = json.loads((done.parent / "settings.json").read_text())["overrides"]
            seconds[f"{method}/seed{seed}"] = round(summary["seconds"], 1)
            versions = summary["versions"]
        metadata = {"grid": self.grid.name, "cold_start": self.digest, "methods": methods} | self._sizes()
        results.write(self.out / RESULTS, observations, metadata | {"seconds": seconds, "versions": versions})
        return len(finished)

    def _sizes(self) -> dict[str, int]:
        import pandas as pd
        from safetensors import safe_open

        from verl_cleaner.nano.tasks import UNSEEN

        families = pd.read_parquet(self.start.val, columns=["data_source"])["data_source"]
        unseen = int(families.str.endswith(f"/{UNSEEN}").sum())
        parameters = 0
        for file in self.start.model.glob("*.safetensors"):
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a mapping
                    size = 1
                    for extent in weights.get_slice(name).get_shape():
                        size *= extent
                    parameters += size
        return {
            "policy_parameters": parameters,
            "held_out_tasks": len(families) - unseen,
            "unseen_tasks": unseen,
        }


class _Group:
    """A series of runs in a group of processes of its own, and a line for each of its validations."""

    def __init__(self, experiment: Experiment, number: int, runs: list[GridRun], stack: ExitStack) -> None:
        planned = [experiment.planned(run) for run in runs]
        for run, settings in zip(runs, planned, strict=True):
            folder = Path(settings.folder)
            folder.mkdir(parents=True, exist_ok=True)
            content = {"fingerprint": settings.fingerprint, "overrides": [*run.overrides, *experiment.overrides]}
            (folder / "settings.json").write_text(json.dumps(content, indent=1))
        plan = experiment.out / f"plan{number}.json"
        Plan(experiment.grid.config_name, planned).write(plan)
        self._followed = [
            (run.name, MetricsFile(Path(p.folder) / "metrics.jsonl")) for run, p in zip(runs, planned, strict=True)
        ]
        command = [sys.executable, "-m", "verl_cleaner.experiments.series", str(plan)]
        log = experiment.out / f"group{number}.log"
        print(f"[cleaner] group {number}: {len(runs)} runs (log: {log})")
        self._training = stack.enter_context(Training(command, log=log, environment=logger_environment(experiment.out)))

    def ended(self) -> bool:
        """Raises RunFailed."""
        try:
            return self._training.ended()
        finally:
            for name, metrics in self._followed:
                for step, logged in metrics.new():
                    if (accuracy := held_out_accuracy(logged)) is not None:
                        print(f"  {name:<20} step {step:>3}  held-out {accuracy:.3f}")


if __name__ == "__main__":
    main()
