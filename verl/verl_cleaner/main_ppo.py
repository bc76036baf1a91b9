"""Start training: `python -m verl_cleaner.main_ppo [--config-name cleaner_cpu] key=value …`.

Checks first what VeRL would swallow or find out late (`verl_cleaner.preflight`), then hands over to VeRL's own main.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from verl_cleaner import platform_is_cpu, preflight
from verl_cleaner.driver import job_variables
from verl_cleaner.records.run_info import command_line
from verl_cleaner.rollout.lost_trajectory import RolloutError
from verl_cleaner.saar.outcome import InfrastructureError

CPU_CONFIGS = ("cleaner_cpu", "quickstart")
"""Of our configurations, those without a GPU."""

END_SECONDS = 120.0
"""What a run that failed may take to end its processes. Ray has been seen to wait for ever where the host had no
process left for it."""


@hydra.main(config_path="conf", config_name="cleaner", version_base=None)
def main(config: DictConfig) -> None:
    with errors_in_a_line():
        # The trainer, which writes it down, runs in another process.
        config.trainer.command = command_line(sys.argv[1:])
        make_ready(config)
        from verl.trainer.main_ppo import main as verl_main

        # The function under VeRL's @hydra.main.
        verl_main.__wrapped__(config)


def start_early(words: Sequence[str]) -> None:
    """Start what the CPU backend can start before anything is composed, which imports Ray; for a new process.

    words: of the command line. A run that they do not show to be on CPU starts it in `make_ready`.
    """
    names = {word.removeprefix("--config-name=") for word in words}
    if platform_is_cpu() or names & {*CPU_CONFIGS, "trainer.device=cpu"}:
        from verl_cleaner.engine.cpu import forkserver

        _set_threads()
        forkserver.start_early()


def make_ready(config: DictConfig) -> None:
    """Fill in, choose the backend, check. Raises PreflightError."""
    preflight.prepare(config)
    if config.trainer.device == "cpu":
        _use_cpu_backend(config)
    preflight.check(config)


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """End with what the user can mend, without a traceback. After any error the process ends in END_SECONDS, whatever
    its exit handlers wait for."""
    try:
        with _bounded_end():
            yield
    except (preflight.PreflightError, InfrastructureError, RolloutError) as error:
        # Ray hands on what was raised in the trainer, wrapped into an instance of the same class. It also writes a
        # worker's line and its end one after the other: an error in between would not have a line of its own.
        sys.exit(f"\nerror: {getattr(error, 'cause', error)}")


@contextmanager
def _bounded_end() -> Iterator[None]:
    try:
        yield
    except Exception:
        # A signal, since a host without processes has no threads for a timer either.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, END_SECONDS)
        raise


def _use_cpu_backend(config: DictConfig) -> None:
    """Before VeRL asks for its platform; the worker processes inherit the variable."""
    from verl_cleaner.engine.cpu import forkserver, register

    if not platform_is_cpu():
        os.environ["VERL_PLATFORM"] = "cpu"
        register()
    _set_threads()
    if not preflight.own_cluster(config):
        _join_cluster(config)
        return
    # After a kill -9, Ray's agents would wait a minute for a head that cannot come back.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    # Workers that Ray starts before it is asked have no runtime environment, and so are never used.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    environment = config.ray_kwargs.ray_init.runtime_env
    if environment.py_executable is None:
        environment.py_executable = forkserver.start(forkserver.modules_for(config.actor_rollout_ref.rollout.name))


def _set_threads() -> None:
    """Two threads on a busy host of two cores are many times slower than one; TransferQueue sets torch's own number."""
    for variable in ("OMP_NUM_THREADS", "TQ_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def _join_cluster(config: DictConfig) -> None:
    """The workers get the environment that those of a Ray of our own inherit. A cluster's resources are its own to say;
    Ray refuses others."""
    ray_init = config.ray_kwargs.ray_init
    with open_dict(ray_init):
        ray_init.num_cpus = ray_init.num_gpus = None
        for variable in {"VERL_PLATFORM", "OMP_NUM_THREADS", "TQ_NUM_THREADS"} - job_variables():
            OmegaConf.update(ray_init, f"runtime_env.env_vars.{variable}", os.environ[variable])


if __name__ == "__main__":
    start_early(sys.argv[1:])
    main()
