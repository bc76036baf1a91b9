"""A grid in a folder: which of its runs are done, working through the others, collecting what came out.

OUT/METHOD/seedS/settings.json   once the run has begun
OUT/METHOD/seedS/metrics.jsonl   all metrics of every step; checkpoints/ beside it
OUT/METHOD/seedS/done.json       once it has finished
OUT/groupN.log                   what a group of processes printed
OUT/results.parquet              tidy, of all finished runs
"""

import fcntl
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cleaner_lab.experiments import results
from cleaner_lab.experiments.grid import ColdStart, Grid, GridError, GridRun
from cleaner_lab.experiments.plan import DONE, SETTINGS, Plan, PlannedRun, of_workers, override_key
from cleaner_lab.nano.curves import ONLY_HELD_OUT, held_out_accuracy
from verl_cleaner.launch import RunFailed, Training, logger_environment
from verl_cleaner.records.metrics import MetricsFile, read_steps

RESULTS = "results.parquet"
_POLL_SECONDS = 0.5
_OURS = (
    "actor_rollout_ref.model.path",
    "data.train_files",
    "data.val_files",
    "trainer.experiment_name",
    "trainer.default_local_dir",
    "trainer.resume_mode",
)
"""Set for each run."""


@dataclass(slots=True)
class Experiment:
    """overrides: the user's, for every run. Raises GridError where they name what is set for each run, and where the
    folder holds runs of another cold start or of other settings for all."""

    grid: Grid
    start: ColdStart
    out: Path
    overrides: tuple[str, ...]
    digest: str = field(init=False)
    _lock: IO[str] = field(init=False)

    def __post_init__(self) -> None:
        for override in (*self.grid.overrides, *self.overrides):
            if (key := override_key(override)) in _OURS:
                raise GridError(f"{key} is set for each run; take it out of the overrides")
        self.digest = self.start.digest()
        self.out.mkdir(parents=True, exist_ok=True)
        self._lock = (self.out / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise GridError(f"another process works in {self.out}; wait for it or name another folder") from None
        for begun in sorted(self.out.glob(f"*/seed*/{SETTINGS}")):
            if json.loads(begun.read_text())["shared"] != self._shared():
                raise self._of_other_settings(begun)

    def _shared(self) -> dict[str, Any]:
        overrides = [*self.grid.overrides, *self.overrides]
        return {"cold_start": self.digest, "config_name": self.grid.config_name, "overrides": overrides}

    def _of_other_settings(self, begun: Path) -> GridError:
        return GridError(
            f"{begun.parent} holds a run of other settings or another cold start (see {begun.name} there); "
            "delete it or name another folder with --out"
        )

    def left(self, runs: list[GridRun]) -> list[GridRun]:
        """Those that are not done. Raises GridError where a run's folder holds one of other settings."""
        for run in runs:
            begun = self.out / run.name / SETTINGS
            if begun.exists() and json.loads(begun.read_text())["fingerprint"] != self._fingerprint(run):
                raise self._of_other_settings(begun)
        return [run for run in runs if not (self.out / run.name / DONE).exists()]

    def _fingerprint(self, run: GridRun) -> str:
        own = GridRun(run.method, run.seed, (*run.overrides, *self.overrides))
        return own.fingerprint(self.grid.config_name, self.digest)

    def planned(self, run: GridRun) -> PlannedRun:
        folder = self.out / run.name
        values = (
            *(self.start.model, self.start.train, self.start.val),
            *(run.name.replace("/", "_"), folder / "checkpoints", "auto"),
        )
        files = [f"{key}={value}" for key, value in zip(_OURS, values, strict=True)]
        method = next(method for method in self.grid.methods if method.name == run.method)
        settings = {"fingerprint": self._fingerprint(run), "shared": self._shared(), "method": list(method.overrides)}
        return PlannedRun(run.name, str(folder), settings, [*files, *run.overrides, *self.overrides])

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
                    working.append(_Group(self, next(numbers), waiting.pop(0)))
                    stack.callback(working[-1].close)
                for group in list(working):
                    try:
                        if not group.ended():
                            continue
                    except RunFailed as error:
                        failures.append(str(error))
                    working.remove(group)
                    # The next group may need its memory.
                    group.close()
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
            steps = read_steps(done.parent / "metrics.jsonl")
            observations += results.rows(method, seed, steps, summary["held_out_rollback"])
            methods[method] = json.loads((done.parent / SETTINGS).read_text())["method"]
            seconds[f"{method}/seed{seed}"] = round(summary["seconds"], 1)
            versions = summary["versions"]
        metadata = {"grid": self.grid.name, **self._shared(), "methods": methods, "seconds": seconds}
        results.write(self.out / RESULTS, observations, metadata | {"versions": versions} | sizes(self.start))
        return len(finished)


def sizes(start: ColdStart) -> dict[str, int]:
    """Parameters of the policy, tasks of the held-out file."""
    import pandas as pd
    from safetensors import safe_open

    families = pd.read_parquet(start.val, columns=["data_source"])["data_source"]
    unseen = int(families.str.rpartition("/")[2].isin(list(ONLY_HELD_OUT)).sum())
    parameters = 0
    for file in start.model.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            # Not a mapping.
            parameters += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return {"policy_parameters": parameters, "held_out_tasks": len(families) - unseen, "unseen_tasks": unseen}


def devices(group: int, overrides: Sequence[str]) -> dict[str, str]:
    """Environment that gives a group of processes its GPUs, so that groups side by side spread over those of the host.

    Empty where a run takes all GPUs, or there are none.
    """
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = [str(n) for n in range(torch.cuda.device_count())] if named is None else named.split(",")
    per_run = next(
        (
            int(text.partition("=")[2])
            for text in reversed(overrides)
            if override_key(text) == "trainer.n_gpus_per_node"
        ),
        1,
    )
    places = len(visible) // per_run
    if places < 2:
        return {}
    first = group % places * per_run
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[first : first + per_run])}


class _Group:
    """A series of runs in a group of processes of its own, and a line for each of its validations."""

    def __init__(self, experiment: Experiment, number: int, runs: list[GridRun]) -> None:
        planned = [experiment.planned(run) for run in runs]
        plan, log = experiment.out / f"plan{number}.json", experiment.out / f"group{number}.log"
        Plan(experiment.grid.config_name, planned).write(plan)
        self._followed = [(run.name, MetricsFile(Path(run.folder) / "metrics.jsonl")) for run in planned]
        command = [sys.executable, "-m", "cleaner_lab.experiments.series", str(plan)]
        print(f"[cleaner] group {number}: {len(runs)} runs (log: {log})")
        self._stack = ExitStack()
        environment = logger_environment(experiment.out) | devices(number, planned[0].overrides)
        self._training = self._stack.enter_context(Training(command, log=log, environment=environment))

    def close(self) -> None:
        self._stack.close()

    def ended(self) -> bool:
        """Raises RunFailed."""
        try:
            return self._training.ended()
        finally:
            for name, metrics in self._followed:
                for step, logged in metrics.new():
                    if (accuracy := held_out_accuracy(logged)) is not None:
                        print(f"  {name:<20} step {step:>3}  held-out {accuracy:.3f}")
