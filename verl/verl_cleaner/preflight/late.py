"""Checks of what VeRL reads late: when its trainer or its workers are built, at the first update, or at a resume.

A name that code of the user's may add to one of VeRL's tables is refused only where no such code is named.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_cleaner.enable import ENGINE_MODULE
from verl_cleaner.engine.cpu import ROLLOUT_NAME as CPU
from verl_cleaner.preflight.finding import Finding, error, warning
from verl_cleaner.preflight.names import nearest, own_cluster, verl_mode

_ASYNC = "trainer.v1.trainer_mode=cleaner_separate_async"
_ROLLOUT = "actor_rollout_ref.rollout"
_ENGINE = f"{_ROLLOUT}.checkpoint_engine.backend"
_CODE = (
    "data.custom_cls.path",
    "reward.custom_reward_function.path",
    "trainer.v1.sampler.custom_sampler.path",
    "actor_rollout_ref.rollout.agent.agent_loop_config_path",
)
_KL = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")


def separate_async(config: DictConfig) -> Iterator[Finding]:
    """Rollout servers of their own: sizes, processes, and how they get the weights."""
    if verl_mode(config) != "separate_async":
        return
    batch, mini = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    steps, rollout = config.trainer.v1.separate_async.parameter_sync_step, config.actor_rollout_ref.rollout
    if batch != steps * mini:
        yield error(
            f"{_ASYNC} needs data.train_batch_size = trainer.v1.separate_async.parameter_sync_step × "
            f"actor_rollout_ref.actor.ppo_mini_batch_size, got {batch} and {steps} × {mini}; write "
            f"data.train_batch_size={steps * mini}, or change one of the others"
        )
    for name in ("nnodes", "n_gpus_per_node"):
        if rollout[name] <= 0:
            yield error(
                f"{_ASYNC} needs {_ROLLOUT}.{name} of at least 1, got {rollout[name]}: its rollout servers have "
                "processes of their own"
            )
    if rollout.checkpoint_engine.backend == "naive":
        yield error(f"{_ASYNC} needs another {_ENGINE} than naive, VeRL's default; nccl, or cpu without a GPU")
    reward = config.reward.reward_model
    if reward.enable and not reward.enable_resource_pool:
        yield error(f"{_ASYNC} needs reward.reward_model.enable_resource_pool=True, got False: servers never pause")
    switch = config.trainer.v1.separate_async.hybrid_rollout.enable_switch
    if switch and rollout.disaggregation.enabled:
        yield error(
            f"{_ROLLOUT}.disaggregation.enabled=True cannot be combined with "
            "trainer.v1.separate_async.hybrid_rollout.enable_switch=True; switch one off"
        )


def checkpoint_engine(config: DictConfig) -> Iterator[Finding]:
    """Whether this node has what hands the weights over, e.g. cupy for nccl."""
    from verl.checkpoint_engine import CheckpointEngineRegistry
    from verl.utils.import_utils import import_external_libs

    settings = config.actor_rollout_ref.rollout.checkpoint_engine
    # Our own engine comes with the platform; the check `platform` reports where that is missing.
    if settings.backend == config.trainer.device == CPU:
        return
    import_external_libs(settings.get("custom_backend_module") or None)
    try:
        CheckpointEngineRegistry.get(settings.backend)
    except ValueError as problem:
        yield error(f"{_ENGINE}={settings.backend} is not here: {problem}; install what is missing, or take another")


def resume(config: DictConfig) -> Iterator[Finding]:
    mode, path = config.trainer.resume_mode, config.trainer.resume_from_path
    if mode not in (modes := ("auto", "disable", "resume_path")):
        yield error(f"trainer.resume_mode={mode} is unknown, expected one of {', '.join(modes)}")
    if mode != "resume_path":
        return
    key = f"trainer.resume_from_path={path}"
    if not isinstance(path, str) or not path.rpartition("global_step_")[2].isdigit():
        yield error(f"{key} must end with global_step_ and a number, e.g. checkpoints/global_step_20")
    elif "://" not in path and not Path(path).is_dir():
        yield error(f"{key}: the folder does not exist (seen from {os.getcwd()})")


def gpus(config: DictConfig) -> Iterator[Finding]:
    """VeRL places every process by GPU, on CPU by the ones that Ray is told of."""
    needed, here = _needed(config), _gpus(config)
    # The check `gpu` reports a node without any GPU.
    if not here or sum(needed.values()) <= here:
        return
    text = f"the run needs {' + '.join(f'{count} GPUs ({key})' for key, count in needed.items())}, but Ray has {here:g}"
    # A cluster may grow.
    if config.trainer.device == "cpu":
        yield error(f"{text}; write ray_kwargs.ray_init.num_gpus={sum(needed.values())}")
    elif own_cluster(config):
        yield error(f"{text}; lower one")
    else:
        yield warning(f"{text} and waits for more")


def sampler(config: DictConfig) -> Iterator[Finding]:
    key, given = "trainer.v1.sampler", config.trainer.v1.sampler
    threshold, strategy = given.max_off_policy_threshold, given.max_off_policy_strategy
    if threshold is not None and (not isinstance(threshold, int) or threshold <= 0):
        yield error(f"{key}.max_off_policy_threshold={threshold} must be a whole number of at least 1, or null")
    if strategy not in ("drop", "wait"):
        yield error(f"{key}.max_off_policy_strategy={strategy} is unknown, expected drop or wait")
    groups = config.algorithm.get("filter_groups") or {}
    if groups.get("enable") and not groups.get("metric"):
        yield error("algorithm.filter_groups.enable=True needs algorithm.filter_groups.metric, got null, e.g. acc")
    reward = config.reward.reward_model
    if groups.get("enable") and reward.enable and not reward.enable_resource_pool:
        yield error(
            "algorithm.filter_groups.enable=True needs reward.reward_model.enable_resource_pool=True, got False: "
            "groups are filtered before a reward model on the same GPUs gives scores"
        )


def verl_names(config: DictConfig) -> Iterator[Finding]:
    """Names that VeRL looks up in tables of its own, most of them at the first update."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.utils.tracking import Tracking

    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    tables = {"algorithm.adv_estimator": ADV_ESTIMATOR_REGISTRY} | {
        "actor_rollout_ref.actor.policy_loss.loss_mode": POLICY_LOSS_REGISTRY
    }
    for key, known in tables.items():
        yield from _name(key, OmegaConf.select(config, key), list(known), grows=_own_code(config))
    if actor.use_kl_loss:
        yield from _name("actor_rollout_ref.actor.kl_loss_type", str(actor.kl_loss_type).removesuffix("+"), _KL)
    if algorithm.use_kl_in_reward:
        yield from _name("algorithm.kl_penalty", str(algorithm.kl_penalty).removesuffix("+"), _KL)
        yield from _name("algorithm.kl_ctrl.type", algorithm.kl_ctrl.type, ("fixed", "adaptive"))
        if algorithm.kl_ctrl.type == "adaptive" and algorithm.kl_ctrl.horizon <= 0:
            yield error(f"algorithm.kl_ctrl.horizon={algorithm.kl_ctrl.horizon} must be positive")
    loggers = config.trainer.logger
    for name in [loggers] if isinstance(loggers, str) else loggers or ():
        yield from _name("trainer.logger", name, (*Tracking.supported_backend, "tracking"))


def rollout_correction(config: DictConfig) -> Iterator[Finding]:
    """VeRL reads these at the first update; without log-probs to correct by, it leaves the correction out."""
    import torch
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask

    key = "algorithm.rollout_correction"
    given = config.algorithm.get("rollout_correction") or {}
    asked = [name for name in ("rollout_is", "rollout_rs", "bypass_mode") if given.get(name)]
    if not asked:
        return
    kept = config.actor_rollout_ref.rollout.calculate_log_probs
    if not kept:
        yield error(
            f"{key}.{asked[0]}={given[asked[0]]} needs {_ROLLOUT}.calculate_log_probs=True, got {kept}: without the "
            "rollout's log-probs nothing is corrected"
        )
    names = ("rollout_is", "rollout_is_threshold", "rollout_rs", "rollout_rs_threshold")
    values = {name: given.get(name) for name in names if given.get(name) is not None}
    row = torch.zeros(1, 2)
    try:
        compute_rollout_correction_and_rejection_mask(row, row, torch.ones(1, 2), **values)
    except (ValueError, TypeError) as problem:
        said = ", ".join(f"{name}={value}" for name, value in values.items())
        yield error(f"{key} ({said}) is refused by VeRL at the first update: {problem}")


def classes(config: DictConfig) -> Iterator[Finding]:
    """Classes of the user's that VeRL's trainer loads."""
    from verl.utils.import_utils import load_class_from_fqn, load_extern_type

    if name := config.trainer.get("checkpoint_callback_class"):
        yield from _loads(f"trainer.checkpoint_callback_class={name}", load_class_from_fqn, name, "CheckpointCallback")
    custom = config.trainer.v1.sampler.get("custom_sampler") or DictConfig({})
    if custom.get("path") and custom.get("name"):
        key = f"trainer.v1.sampler.custom_sampler.path={custom.path}"
        yield from _loads(f"{key}, name={custom.name}", load_extern_type, custom.path, custom.name)


def _loads(key: str, load: Callable[..., object], *args: Any) -> Iterator[Finding]:
    try:
        load(*args)
    except Exception as failure:
        yield error(f"{key} cannot be loaded: {type(failure).__name__}: {failure}")


def _name(key: str, got: str, known: Iterable[str], *, grows: bool = False) -> Iterator[Finding]:
    names = [str(getattr(name, "value", name)) for name in known]
    if got in names:
        return
    near = nearest(str(got), names)
    fix = f"did you mean {near}?" if near else f"expected one of {', '.join(names)}"
    if grows:
        yield warning(f"{key}={got} is none of VeRL's, so code of your own has to register it; if none does, {fix}")
    else:
        yield error(f"{key}={got} is unknown; {fix}")


def _own_code(config: DictConfig) -> bool:
    """Whether a module of the user's is named that the trainer or its workers import."""
    libraries = OmegaConf.select(config, "actor_rollout_ref.model.external_lib") or []
    libraries = [libraries] if isinstance(libraries, str) else libraries
    return any(name != ENGINE_MODULE for name in libraries) or any(
        not str(OmegaConf.select(config, key) or "pkg://verl_cleaner.").startswith("pkg://verl_cleaner.")
        for key in _CODE
    )


def _needed(config: DictConfig) -> dict[str, int]:
    """GPUs by the key that asks for them."""
    pools = {"trainer": config.trainer}
    if verl_mode(config) == "separate_async":
        pools[_ROLLOUT] = config.actor_rollout_ref.rollout
    if config.reward.reward_model.enable and config.reward.reward_model.enable_resource_pool:
        pools["reward.reward_model"] = config.reward.reward_model
    if (config.get("distillation") or {}).get("enabled"):
        pools["distillation"] = config.distillation
    return {f"{key}.nnodes × n_gpus_per_node": pool.nnodes * pool.n_gpus_per_node for key, pool in pools.items()}


def _gpus(config: DictConfig) -> float | None:
    """Of the cluster; None where it cannot be asked yet."""
    import ray
    import torch

    if ray.is_initialized():
        with contextlib.suppress(Exception):
            return float(ray.cluster_resources().get("GPU", 0))
    if not own_cluster(config):
        return None
    told = config.ray_kwargs.ray_init.get("num_gpus")
    return float(told if told is not None else torch.cuda.device_count())
