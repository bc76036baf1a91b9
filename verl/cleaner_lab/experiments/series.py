"""Several runs in one group of processes, one after the other, so that the start is paid once.

    python -m cleaner_lab.experiments.series PLAN.json

host   a trainer that only starts the workers: actor, rollout servers, reward workers
run    a trainer with its own configuration and the host's workers, which are set back to the start (weights, optimizer,
       schedule, generators) or to the run's own checkpoint; the agent loops, which hold the configuration, are new

On the CPU engine, whose requests carry seeds, a run in a series equals the same run alone. Runs of a series may differ
in `plan.PER_RUN` only: everything else is in a worker. An error ends the series; what is done stays done.
"""

import copy
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from cleaner_lab.experiments.plan import DONE, SETTINGS, Plan, PlannedRun, compose, differences, worker_part
from verl_cleaner.launch import logger_environment
from verl_cleaner.main_ppo import errors_in_a_line, make_ready, start_early
from verl_cleaner.preflight import PreflightError
from verl_cleaner.records import run_info
from verl_cleaner.records.metrics import read_steps

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 60.0


def main() -> None:
    path = Path(sys.argv[1])
    plan = Plan.read(path)
    start_early([plan.config_name])
    with errors_in_a_line():
        configs = _configs(plan)
        import ray
        from verl.trainer.main_ppo import run_ppo

        remote = ray.remote(_series_runner())
        runs = list(zip(plan.runs, configs, strict=True))
        runner = SimpleNamespace(remote=lambda: remote.remote(runs, path.with_suffix(".start").resolve()))
        run_ppo(configs[0], task_runner_class=runner)


def _configs(plan: Plan) -> list[DictConfig]:
    configs = [compose(plan.config_name, run.overrides) for run in plan.runs]
    first = worker_part(configs[0])
    for run, config in zip(plan.runs, configs, strict=True):
        if differing := differences(first, worker_part(config)):
            raise PreflightError([f"{run.name} and {plan.runs[0].name} differ in {key}" for key in differing])
    if problems := _problems(configs[0]):
        raise PreflightError(problems)
    make_ready(configs[0])
    environment = configs[0].ray_kwargs.ray_init.runtime_env
    for config in configs[1:]:
        config.ray_kwargs.ray_init.runtime_env = environment
        make_ready(config)
    return configs


def _problems(config: DictConfig) -> list[str]:
    """What a run cannot be set back to, or cannot have beside others."""
    from verl.trainer.ppo.utils import need_critic

    found = []
    if need_critic(config):
        found.append("a series of runs has no critic; choose an algorithm.adv_estimator without one, such as grpo")
    checkpoint = config.actor_rollout_ref.actor.checkpoint
    for key in ("save_contents", "load_contents"):
        if missing := {"model", "optimizer", "extra"} - set(checkpoint[key]):
            found.append(
                f"actor_rollout_ref.actor.checkpoint.{key} lacks {sorted(missing)}, expected all of a run's state"
            )
    if config.trainer.metrics_address:
        found.append(f"trainer.metrics_address={config.trainer.metrics_address}: runs of a series cannot share it")
    return found


def _series_runner() -> type:
    """The class, made once VeRL may be imported."""
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1

    from verl_cleaner.training.test_time import TEST_TIME

    class SeriesRunner(TaskRunnerV1.__ray_metadata__.modified_class):  # type: ignore[misc, name-defined]
        """VeRL's task runner for one run after another."""

        def __init__(self, runs: list[tuple[PlannedRun, DictConfig]], start: Path) -> None:
            super().__init__()
            self.runs = runs
            self.start = start

        def run(self, config: DictConfig) -> None:
            import transfer_queue as tq
            from verl.utils.logging_utils import configure_verl_logging

            configure_verl_logging()
            config.transfer_queue.enable = True
            tq.init(config.transfer_queue)
            try:
                host = self._host(config)
                for planned, own in self.runs:
                    self._train(planned, own, host)
            finally:
                shutil.rmtree(self.start, ignore_errors=True)
                with within(CLOSE_SECONDS):
                    tq.close()

        def _host(self, config: DictConfig) -> Any:
            config = copy.deepcopy(config)
            config.trainer.resume_mode = "disable"
            host = self._trainer(config)
            host.init()
            # An earlier series that was killed may have left one.
            shutil.rmtree(self.start, ignore_errors=True)
            host.actor_rollout_wg.save_checkpoint(str(self.start), None, 0)
            return host

        def _trainer(self, config: DictConfig) -> Any:
            from verl.trainer.ppo.v1 import get_trainer_cls

            config.transfer_queue.enable = True
            OmegaConf.resolve(config)
            return get_trainer_cls(config.trainer.v1.trainer_mode)(config)

        def _train(self, planned: PlannedRun, config: DictConfig, host: Any) -> None:
            from cleaner_lab.experiments.take_over import take_over

            begin = time.monotonic()
            folder = Path(planned.folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SETTINGS).write_text(json.dumps(planned.settings, indent=1))
            os.environ.update(logger_environment(folder))
            last = last_logged_checkpoint(Path(config.trainer.default_local_dir), folder / "metrics.jsonl")
            with open_dict(config):
                # One manager of checkpoints, in the worker, serves all runs: it would delete the last run's.
                config.trainer.max_actor_ckpt_to_keep = None
                config.trainer.resume_mode = "resume_path" if last else "disable"
                config.trainer.resume_from_path = last and str(last)
                # Where a validation of that step was due, it is logged already; a second one would count in the mean.
                config.trainer.val_before_train = config.trainer.val_before_train and not last
            self.config, self.trainer = config, self._trainer(config)
            take_over(self.trainer, host, start=self.start)
            self._with_agent_loops(self.trainer.fit)
            self.trainer.logger.finish(exit_code=0)
            measured = self._with_rollback()
            done = {"seconds": time.monotonic() - begin, "held_out_rollback": measured, "versions": run_info.versions()}
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


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give up what the block waits for after `seconds`, with a line in the log: an error that is on its way is worth
    more than an end in order. For the main thread, which runs a Ray actor's methods."""

    def give_up(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TimeoutError:
        logger.warning("closing took more than %g s and was given up", seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def last_logged_checkpoint(checkpoints: Path, metrics: Path) -> Path | None:
    """The newest whose training step was logged too: VeRL saves before it validates and logs."""
    if not metrics.is_file():
        return None
    logged = {step for step, found in read_steps(metrics).items() if "timing_s/step" in found}
    return next((path for step, path in reversed(_checkpoints(checkpoints)) if step in logged), None)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder), in order."""
    return sorted((int(path.name.rsplit("_", 1)[1]), path) for path in folder.glob("global_step_*"))


def _keep_last(checkpoints: Path) -> None:
    for _, path in _checkpoints(checkpoints)[:-1]:
        shutil.rmtree(path)


def _write_whole(path: Path, text: str) -> None:
    """All of it or nothing: its presence says that the run is done."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


if __name__ == "__main__":
    main()
