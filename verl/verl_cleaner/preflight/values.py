"""Ranges and combinations."""

import builtins
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from verl_cleaner.engine.attention import NAME as VARLEN
from verl_cleaner.preflight.names import (
    FSDP_SECTIONS,
    MULTI_TURN,
    STOCK_DTYPE,
    dtype_name,
    nearest,
    own_cluster,
    uses_tools,
)
from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.outcome import FailureKind
from verl_cleaner.training.prometheus import check_address

_EXCEPTIONS = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}
_FAILURE_KINDS = {str(kind) for kind in FailureKind} | _EXCEPTIONS | {"ModuleNotFoundError", "JSONDecodeError"}

_LOGGER_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow", "swanlab": "swanlab"}


def problems(config: DictConfig) -> Iterator[str]:
    yield from _rollback_values(config.actor_rollout_ref.rollout.multi_turn)
    if config.actor_rollout_ref.rollout.multi_turn.get("enable_tool_rollback", False) is True:
        yield from _rollback_combinations(config)
    yield from _dtypes(config)
    yield from _attention(config)
    yield from _device(config)
    yield from _loggers(config)
    problem = check_address(config.trainer.get("metrics_address"))
    if problem:
        yield problem


def _rollback_values(multi_turn: DictConfig) -> Iterator[str]:
    """All that are bad: the check names the first one, which is then left out."""
    from verl_cleaner.config import ROLLBACK_KEYS, rollback_config

    values = {key: _plain(multi_turn[key]) for key in ROLLBACK_KEYS if key in multi_turn}
    while True:
        try:
            rollback_config(values)
        except ValueError as error:
            key = re.split(r"\W", str(error), maxsplit=1)[0]
            default = RollbackConfig.__dataclass_fields__[key].default
            yield f"{MULTI_TURN}.{error}; the default is {'null' if default is None else default}"
            del values[key]
        else:
            break
    yield from _unknown_kinds(values.get("rollback_on_errors") or [])


def _unknown_kinds(kinds: list[str]) -> Iterator[str]:
    """A library's own exception classes are allowed; what looks like a misspelt kind is not."""
    for kind in kinds:
        near = None if kind in _FAILURE_KINDS else nearest(kind, _FAILURE_KINDS, cutoff=0.8)
        if near:
            yield f"{MULTI_TURN}.rollback_on_errors: {kind} is no failure kind; did you mean {near}?"


def _rollback_combinations(config: DictConfig) -> Iterator[str]:
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    if not uses_tools(config):
        yield (
            f"{MULTI_TURN}.enable_tool_rollback=True needs tool calls, but multi_turn.enable={multi_turn.enable} and "
            "actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent, expected True and tool_agent; "
            "switch rollback off or tools on"
        )
    logprobs = multi_turn.get("rollback_logprobs", "recompute")
    if logprobs == "rescore":
        yield from _inexact_rescoring(config)
    elif logprobs == "recompute":
        for key, value in _uses_rollout_logprobs(config):
            yield (
                f"{MULTI_TURN}.rollback_logprobs=recompute cannot be combined with {key}={value}: the log-probs that "
                "the rollout reports for a repaired call are those of the context with the error in it, so a "
                f"correction against them is wrong; drop {key}, or switch rollback off"
            )


def _inexact_rescoring(config: DictConfig) -> Iterator[str]:
    from verl_cleaner.rollout.rescore import check_config

    try:
        check_config(config.actor_rollout_ref.rollout)
    except ValueError as error:
        yield f"{MULTI_TURN}.{error}"


def _uses_rollout_logprobs(config: DictConfig) -> Iterator[tuple[str, Any]]:
    correction = "algorithm.rollout_correction"
    candidates = (f"{correction}.rollout_is", f"{correction}.rollout_rs", f"{correction}.bypass_mode")
    for key in candidates:
        value = OmegaConf.select(config, key)
        if value:
            yield key, value
    key = "actor_rollout_ref.actor.policy_loss.loss_mode"
    if OmegaConf.select(config, key) == "bypass_mode":
        yield key, "bypass_mode"


def _dtypes(config: DictConfig) -> Iterator[str]:
    """After `prepare`."""
    for section in FSDP_SECTIONS:
        engine = OmegaConf.select(config, f"{section}.fsdp_config")
        if engine is None:
            continue
        key, dtypes = f"{section}.fsdp_config", dict(engine.get("mixed_precision") or {})
        for name, value in [("dtype", engine.dtype), *((f"mixed_precision.{n}", v) for n, v in dtypes.items())]:
            if dtype_name(value) is None:
                yield f"{key}.{name} must be one of float16, bfloat16, float32, got {value}"
        used, dtype = dtype_name(dtypes.get("param_dtype", engine.dtype)), dtype_name(engine.dtype)
        if dtype is not None and engine.dtype != STOCK_DTYPE and dtype != used:
            yield (
                f"{key}.dtype={engine.dtype} and {key}.mixed_precision.param_dtype={used} disagree, and FSDP reads "
                "only the second; give one of them, or the same in both"
            )


def _attention(config: DictConfig) -> Iterator[str]:
    """What only the kernel for packed sequences can do, and cannot."""
    key = "actor_rollout_ref.model.override_config.attn_implementation"
    if OmegaConf.select(config, key) != VARLEN:
        return
    expected: dict[str, Any] = {"actor_rollout_ref.model.use_remove_padding": True}
    # VeRL reads the second; the first is its older name.
    for path in ("ulysses_sequence_parallel_size", "fsdp_config.ulysses_sequence_parallel_size"):
        expected |= {f"{section}.{path}": 1 for section in FSDP_SECTIONS}
    for other, value in expected.items():
        got = OmegaConf.select(config, other)
        if got is not None and got != value:
            yield f"{key}={VARLEN} needs {other}={value}, got {got}; install flash-attn, or take sdpa"
    if config.trainer.device == "cpu":
        yield f"{key}={VARLEN} needs a GPU, but trainer.device=cpu; take sdpa"


def _device(config: DictConfig) -> Iterator[str]:
    name = config.actor_rollout_ref.rollout.name
    if config.trainer.device != "cpu":
        if name == "cpu":
            yield (
                f"actor_rollout_ref.rollout.name=cpu needs trainer.device=cpu, got {config.trainer.device}; start with "
                "--config-name cleaner_cpu, or name a GPU engine such as sglang"
            )
        elif own_cluster(config):
            yield from _gpu_host(config, name)
        return
    expected: dict[str, Any] = {f"{section}.strategy": "fsdp2" for section in FSDP_SECTIONS}
    expected |= {f"{section}.fsdp_config.strategy": "fsdp2" for section in FSDP_SECTIONS}
    expected |= {
        "actor_rollout_ref.rollout.name": "cpu",
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "trainer.n_gpus_per_node": 1,
        "trainer.nnodes": 1,
    }
    for key, value in expected.items():
        got = OmegaConf.select(config, key)
        if got != value:
            yield f"trainer.device=cpu needs {key}={value}, got {got}; start with --config-name cleaner_cpu"


def _gpu_host(config: DictConfig, engine: str) -> Iterator[str]:
    """The workers will run here."""
    import torch

    if config.trainer.device == "cuda" and not torch.cuda.is_available():
        yield (
            "trainer.device=cuda, but torch sees no GPU here and no Ray cluster is named (RAY_ADDRESS or "
            "ray_kwargs.ray_init.address); for a run on CPU start with --config-name cleaner_cpu"
        )
    if engine in ("sglang", "vllm") and find_spec(engine) is None:
        yield (
            f"actor_rollout_ref.rollout.name={engine}, but the package {engine} is not installed; install the extra: "
            f'pip install -e "verl/[{engine}]"'
        )


def _loggers(config: DictConfig) -> Iterator[str]:
    names = _plain(config.trainer.logger)
    names = [names] if isinstance(names, str) else list(names or ())
    for name in names:
        package = _LOGGER_PACKAGES.get(name)
        if package and find_spec(package) is None:
            rest = [other for other in names if other != name] or ["console"]
            yield (
                f"trainer.logger names {name}, but the package {package} is not installed; install it, or write "
                f"trainer.logger=[{','.join(rest)}]"
            )


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, (DictConfig, ListConfig)) else value
