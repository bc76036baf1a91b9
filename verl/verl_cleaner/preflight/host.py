"""Checks of this host: what is installed on it."""

from collections.abc import Iterator
from importlib.util import find_spec

from omegaconf import DictConfig

from verl_cleaner.preflight.finding import Finding, error
from verl_cleaner.preflight.names import own_cluster, plain

_LOGGER_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow", "swanlab": "swanlab"}


def gpu(config: DictConfig) -> Iterator[Finding]:
    """Only where the run starts its own Ray: then its workers run on this host."""
    import torch

    if config.trainer.device == "cuda" and own_cluster(config) and not torch.cuda.is_available() and not _in_ray():
        yield error(
            "trainer.device=cuda, but torch sees no GPU here and no Ray cluster is named (RAY_ADDRESS or "
            "ray_kwargs.ray_init.address); for a run on CPU start with --config-name cleaner_cpu"
        )


def _in_ray() -> bool:
    """In a Ray process that has no GPUs of its own, as the trainer's, no GPU is visible."""
    import ray

    return ray.is_initialized()


def engine(config: DictConfig) -> Iterator[Finding]:
    name = config.actor_rollout_ref.rollout.name
    if name in ("sglang", "vllm") and find_spec(name) is None:
        yield error(
            f"actor_rollout_ref.rollout.name={name}, but the package {name} is not installed; install the extra: "
            f'pip install "verl-cleaner[{name}]"'
        )


def loggers(config: DictConfig) -> Iterator[Finding]:
    names = plain(config.trainer.logger)
    names = [names] if isinstance(names, str) else list(names or ())
    for name in names:
        package = _LOGGER_PACKAGES.get(name)
        if package and find_spec(package) is None:
            rest = [other for other in names if other != name] or ["console"]
            yield error(
                f"trainer.logger names {name}, but the package {package} is not installed; install it, or write "
                f"trainer.logger=[{','.join(rest)}]"
            )
