"""Checks of ranges, and of keys that do not fit together."""

import builtins
import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_cleaner.preflight.finding import Finding, error, refusal, warning
from verl_cleaner.preflight.lora import adapter_sent
from verl_cleaner.preflight.names import (
    FSDP_SECTIONS,
    MULTI_TURN,
    STOCK_DTYPE,
    dtype_name,
    nearest,
    plain,
    rolls_back,
)
from verl_cleaner.rollout.lost_trajectory import FailurePolicy
from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.outcome import FailureKind
from verl_cleaner.training.prometheus import check_address

_EXCEPTIONS = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}
_FAILURE_KINDS = {str(kind) for kind in FailureKind} | _EXCEPTIONS | {"ModuleNotFoundError", "JSONDecodeError"}


def rollback_values(config: DictConfig) -> Iterator[Finding]:
    """All bad keys: a check names the first bad key, which is then left out, and the check runs again."""
    from verl_cleaner.config import ROLLBACK_KEYS, rollback_config

    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    values = {key: plain(multi_turn[key]) for key in ROLLBACK_KEYS if key in multi_turn}
    while True:
        try:
            rollback_config(values)
        except ValueError as problem:
            key = re.split(r"\W", str(problem), maxsplit=1)[0]
            default = getattr(RollbackConfig(), key)
            yield error(f"{MULTI_TURN}.{problem}; the default is {'null' if default is None else default}")
            del values[key]
        else:
            break


def lost_groups(config: DictConfig) -> Iterator[Finding]:
    yield from refusal("", FailurePolicy.of, config.trainer)


def failure_kinds(config: DictConfig) -> Iterator[Finding]:
    """Names of exceptions of libraries are allowed; a name that is close to a known kind is reported as a typo."""
    kinds = plain(config.actor_rollout_ref.rollout.multi_turn.get("rollback_on_errors")) or []
    for kind in kinds if isinstance(kinds, list) else []:
        near = None if kind in _FAILURE_KINDS else nearest(kind, _FAILURE_KINDS, cutoff=0.8)
        if near:
            yield error(f"{MULTI_TURN}.rollback_on_errors: {kind} is no failure kind; did you mean {near}?")


def rollback_logprobs(config: DictConfig) -> Iterator[Finding]:
    if not rolls_back(config):
        return
    logprobs = config.actor_rollout_ref.rollout.multi_turn.get("rollback_logprobs", "recompute")
    if logprobs == "rescore":
        from verl_cleaner.rollout.rescore import check_config

        yield from refusal(f"{MULTI_TURN}.", check_config, config.actor_rollout_ref.rollout)
    elif logprobs == "recompute":
        for key, value in _uses_rollout_logprobs(config):
            yield error(
                f"{MULTI_TURN}.rollback_logprobs=recompute cannot be combined with {key}={value}: the log-probs that "
                "the rollout reports for a repaired call are those of the context with the error in it, so a "
                f"correction against them is wrong; drop {key}, write rollback_logprobs=rescore, or switch rollback off"
            )


def tool_limits(config: DictConfig) -> Iterator[Finding]:
    """VeRL's default limits are small for a loop that reads errors."""
    if not rolls_back(config):
        return
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    if multi_turn.max_parallel_calls == 1:
        yield warning(
            f"{MULTI_TURN}.max_parallel_calls=1, VeRL's default: further calls of a turn are left out unanswered; 8 "
            "lets them run"
        )
    if multi_turn.max_tool_response_length <= 256:
        yield warning(
            f"{MULTI_TURN}.max_tool_response_length={multi_turn.max_tool_response_length}, VeRL's default is 256 "
            "characters: the policy and its retries see a longer error only in part; 2048 is usual with rollback"
        )


def _uses_rollout_logprobs(config: DictConfig) -> Iterator[tuple[str, Any]]:
    for name in ("rollout_is", "rollout_rs", "bypass_mode"):
        key = f"algorithm.rollout_correction.{name}"
        value = OmegaConf.select(config, key)
        if value:
            yield key, value
    key = "actor_rollout_ref.actor.policy_loss.loss_mode"
    if OmegaConf.select(config, key) == "bypass_mode":
        yield key, "bypass_mode"


def dtypes(config: DictConfig) -> Iterator[Finding]:
    """Under `verl_cleaner.main_ppo` it runs after `prepare`, which translates the first key into the second."""
    if not str(config.actor_rollout_ref.actor.strategy).startswith("fsdp"):
        return
    for section in FSDP_SECTIONS:
        engine = OmegaConf.select(config, f"{section}.fsdp_config")
        if engine is None:
            continue
        key, given = f"{section}.fsdp_config", dict(engine.get("mixed_precision") or {})
        asked = engine.get("dtype", STOCK_DTYPE)
        for name, value in [("dtype", asked), *((f"mixed_precision.{n}", v) for n, v in given.items())]:
            if dtype_name(value) is None:
                yield error(f"{key}.{name} must be one of float16, bfloat16, float32, got {value}")
        used, dtype = dtype_name(given.get("param_dtype", STOCK_DTYPE)), dtype_name(asked)
        if dtype is not None and asked != STOCK_DTYPE and dtype != used:
            yield error(
                f"{key}.dtype={asked} and {key}.mixed_precision.param_dtype={used} disagree, and FSDP reads "
                "only the second; give one of them, or the same in both"
            )


_CPU_TORCH = (2, 8)


def cpu(config: DictConfig) -> Iterator[Finding]:
    """The CPU rollout engine needs `trainer.device=cpu`, which has it and vLLM's build for CPU."""
    name = config.actor_rollout_ref.rollout.name
    if config.trainer.device != "cpu":
        if name == "cpu":
            yield error(
                f"actor_rollout_ref.rollout.name=cpu needs trainer.device=cpu, got {config.trainer.device}; start with "
                "--config-name cleaner_cpu, or name a GPU engine such as sglang"
            )
        return
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < _CPU_TORCH:
        yield error(f"trainer.device=cpu needs torch 2.8 or newer, whose FSDP2 works on CPU; got {torch.__version__}")
    expected: dict[str, Any] = {f"{section}.strategy": "fsdp2" for section in FSDP_SECTIONS}
    expected |= {f"{section}.fsdp_config.strategy": "fsdp2" for section in FSDP_SECTIONS}
    rollout = "actor_rollout_ref.rollout"
    expected[f"{rollout}.tensor_model_parallel_size"] = 1
    if name == "vllm":
        expected |= {f"{rollout}.enable_sleep_mode": False, f"{rollout}.free_cache_engine": False}
    else:
        expected[f"{rollout}.name"] = "cpu"
    for key, value in expected.items():
        got = OmegaConf.select(config, key)
        if got != value:
            yield error(f"trainer.device=cpu needs {key}={value}, got {got}; start with --config-name cleaner_cpu")
    if name == "cpu" and (sent := adapter_sent(config)):
        yield error(
            f"trainer.device=cpu with {sent} needs "
            "actor_rollout_ref.model.lora.merge=True: the CPU rollout server takes whole weights and no adapters"
        )


def metrics_address(config: DictConfig) -> Iterator[Finding]:
    problem = check_address(config.trainer.get("metrics_address"))
    if problem:
        yield error(problem)


def verl(config: DictConfig) -> Iterator[Finding]:
    """VeRL's own checks, also those that VeRL makes only in its workers."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
            validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    except Exception as failure:
        yield error(f"VeRL refuses the configuration: {type(failure).__name__}: {failure}")
