"""Several runs in one group of processes, one after the other, so that the start is paid once.

    python -m verl_cleaner.experiments.series PLAN.json

host   a trainer that only starts the workers: actor, rollout servers, reward workers
run    a trainer with its own configuration and the host's workers, which are set back to the start (weights, optimizer,
       schedule, generators) or to the run's own checkpoint; the agent loops, which hold the configuration, are new

On the CPU engine, whose requests carry seeds, a run in a series equals the same run alone. Runs of a series may differ
in `PER_RUN` only: everything else is in a worker. An error ends the series; what is done stays done.
"""

import copy
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import ray
from omegaconf import DictConfig, OmegaConf, open_dict

import verl_cleaner
from verl_cleaner import run_info
from verl_cleaner.main_ppo import errors_in_a_line, make_ready
from verl_cleaner.preflight import PreflightError
from verl_cleaner.run import logger_environment

CONF = Path(verl_cleaner.__file__).with_name("conf")

DONE = "done.json"
"""In a run's folder once it has finished; `fingerprint`, `seconds`, `held_out_rollback`, `versions`."""

PER_RUN = (
    "algorithm",
    "data.seed",
    "actor_rollout_ref.rollout.multi_turn",
    "actor_rollout_ref.rollout.seed",
    "actor_rollout_ref.rollout.calculate_log_probs",
    "actor_rollout_ref.rollout.val_kwargs",
    "trainer",
)
_OF_WORKERS = ("algorithm.use_dpo_on_tool_calls", "trainer.device", "trainer.nnodes", "trainer.n_gpus_per_node")

TEST_TIME = {
    "enable_tool_rollback": True,
    "rollback_at_validation": True,
    "max_tool_retries": 3,
    "rollback_similarity_threshold": 0.5,
    "rollback_mode": "overwrite",
    "rollback_logprobs": "recompute",
    "rollback_min_logratio": None,
}
"""The rollback with which every finished policy is measured once more, whatever it was trained with."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """overrides: all of Hydra's, those for files and folders too."""

    name: str
    folder: str
    fingerprint: str
    overrides: list[str]


@dataclass(frozen=True, slots=True)
class Plan:
    config_name: str
    runs: list[PlannedRun]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Plan":
        content = json.loads(path.read_text())
        return cls(content["config_name"], [PlannedRun(**run) for run in content["runs"]])


def main() -> None:
    plan = Plan.read(Path(sys.argv[1]))
    with errors_in_a_line():
        configs = _configs(plan)
        from verl.trainer.main_ppo import run_ppo

        remote = ray.remote(_series_runner())
        runner = SimpleNamespace(remote=lambda: remote.remote(list(zip(plan.runs, configs, strict=True))))
        run_ppo(configs[0], task_runner_class=runner)


def _configs(plan: Plan) -> list[DictConfig]:
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        configs = [hydra.compose(plan.config_name, run.overrides) for run in plan.runs]
    first = worker_part(configs[0])
    for run, config in zip(plan.runs, configs, strict=True):
        if differing := differences(first, worker_part(config)):
            raise PreflightError([f"{run.name} and {plan.runs[0].name} differ in {key}" for key in differing])
    make_ready(configs[0])
    environment = configs[0].ray_kwargs.ray_init.runtime_env
    for config in configs[1:]:
        config.ray_kwargs.ray_init.runtime_env = environment
        make_ready(config)
    return configs


def worker_part(config: DictConfig) -> dict[str, Any]:
    """What the workers that all runs share are built from."""
    shared = copy.deepcopy(config)
    kept = {key: OmegaConf.select(config, key) for key in _OF_WORKERS}
    with open_dict(shared):
        for key in PER_RUN:
            parent, _, name = key.rpartition(".")
            (OmegaConf.select(shared, parent) if parent else shared).pop(name)
    # Interpolations may lead to what was taken out.
    return {**OmegaConf.to_container(shared, resolve=False), **kept}  # type: ignore[dict-item]


def of_workers(overrides: Sequence[str]) -> tuple[str, ...]:
    """Those of Hydra's overrides that change what the workers are built from."""
    keys = [(override.lstrip("+~").partition("=")[0], override) for override in overrides]
    return tuple(text for key, text in keys if _within(key, _OF_WORKERS) or not _within(key, PER_RUN))


def _within(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def differences(one: Any, other: Any, key: str = "") -> list[str]:
    """Keys at which two configurations differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted({*one, *other}, key=str)
        return [found for name in names for found in differences(one.get(name), other.get(name), f"{key}.{name}")]
    return [] if one == other else [f"{key.lstrip('.')} ({one!r} and {other!r})"]


def _series_runner() -> type:
    """The class, made once VeRL may be imported."""
    from verl.trainer.main_ppo import TaskRunnerV1

    class SeriesRunner(TaskRunnerV1.__ray_metadata__.modified_class):  # type: ignore[misc, name-defined]
        """VeRL's task runner for one run after another."""

        def __init__(self, runs: list[tuple[PlannedRun, DictConfig]]) -> None:
            super().__init__()
            self.runs = runs

        def run(self, config: DictConfig) -> None:
            import transfer_queue as tq
            from verl.utils.logging_utils import configure_verl_logging

            configure_verl_logging()
            config.transfer_queue.enable = True
            tq.init(config.transfer_queue)
            start = Path(tempfile.mkdtemp(prefix="cleaner-start-"))
            try:
                host = self._host(config, start)
                for planned, own in self.runs:
                    self._train(planned, own, host, start)
            finally:
                shutil.rmtree(start, ignore_errors=True)
                tq.close()

        def _host(self, config: DictConfig, start: Path) -> Any:
            config = copy.deepcopy(config)
            config.trainer.resume_mode = "disable"
            host = self._trainer(config)
            host.init()
            host.actor_rollout_wg.save_checkpoint(str(start), None, 0)
            return host

        def _trainer(self, config: DictConfig) -> Any:
            from verl.trainer.ppo.v1 import get_trainer_cls

            config.transfer_queue.enable = True
            OmegaConf.resolve(config)
            return get_trainer_cls(config.trainer.v1.trainer_mode)(config)

        def _train(self, planned: PlannedRun, config: DictConfig, host: Any, start: Path) -> None:
            begin = time.monotonic()
            folder = Path(planned.folder)
            os.environ.update(logger_environment(folder))
            # One manager of checkpoints, in the worker, serves all runs: it would delete the last run's.
            with open_dict(config):
                config.trainer.max_actor_ckpt_to_keep = None
            self.config, self.trainer = config, self._trainer(config)
            self.trainer.take_over(host, start)
            self._with_agent_loops(self.trainer.fit)
            self.trainer.logger.finish(exit_code=0)
            measured = self._with_rollback()
            done = {"fingerprint": planned.fingerprint, "seconds": time.monotonic() - begin}
            done |= {"held_out_rollback": measured, "versions": run_info.versions()}
            _keep_last(Path(config.trainer.default_local_dir))
            _write_whole(folder / DONE, json.dumps(done, indent=1, default=float))

        def _with_rollback(self) -> dict[str, Any]:
            """Held-out accuracy of the trained policy with rollback at test time."""
            config = copy.deepcopy(self.config)
            with open_dict(config):
                config.actor_rollout_ref.rollout.multi_turn.update(TEST_TIME)
                config.trainer.validation_data_dir = config.trainer.trajectories_dir = None
            self.config = self.trainer.config = config
            self.trainer.global_steps = self.trainer.total_training_steps

            def validate(manager: Any) -> Any:
                self.trainer.agent_loop_manager = manager
                return self.trainer._validate()

            return self._with_agent_loops(validate)

        def _with_agent_loops(self, use: Any) -> Any:
            self.init_agent_loop_manager()
            try:
                return use(self.agent_loop_manager)
            finally:
                for worker in self.agent_loop_manager.agent_loop_workers:
                    ray.kill(worker)

    return SeriesRunner


def _keep_last(checkpoints: Path) -> None:
    steps = sorted(checkpoints.glob("global_step_*"), key=lambda path: int(path.name.rsplit("_", 1)[1]))
    for path in steps[:-1]:
        shutil.rmtree(path)


def _write_whole(path: Path, text: str) -> None:
    """All of it or nothing: its presence says that the run is done."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


if __name__ == "__main__":
    main()
