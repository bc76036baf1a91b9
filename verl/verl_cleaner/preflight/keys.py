"""Checks for keys that VeRL accepts and ignores: old places, keys that V1 does not read any more, typos after a `+`.

Hydra refuses an unknown key without the `+`. VeRL's dataclasses refuse unknown keys of their section, but only in the
worker that builds them. VeRL never builds a dataclass of the `algorithm` section, and an advantage estimator may read
keys of its own there. So a key of `algorithm` is refused only if it is close to one of VeRL's keys and the estimator is
one of VeRL's.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.resources import files

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from verl_cleaner.preflight.finding import Finding, error, warning
from verl_cleaner.preflight.names import FSDP_SECTIONS, nearest
from verl_cleaner.training.credit import penalty
from verl_cleaner.training.pairs.config import DPO_KEYS

_MOVED = {
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.num_workers": "reward.num_workers",
    "reward_model.reward_kwargs": "reward.reward_kwargs",
    "reward_model.reward_loop_source": "reward.reward_manager.source",
    "reward_model.reward_loop_module_path": "reward.reward_manager.module.path",
    "reward_model.reward_loop_class_name": "reward.reward_manager.name",
    "reward_model.model.path": "reward.reward_model.model_path",
}
"""Where sections of older versions are now. Those that are not listed are at the same path under `reward`."""

_LEGACY_SECTIONS = ("custom_reward_function", "reward_model", "sandbox_fusion")

_UNREAD = {
    "actor_rollout_ref.rollout.do_sample": (True, "actor_rollout_ref.rollout.temperature=0 for greedy sampling"),
    "actor_rollout_ref.rollout.repetition_penalty": (1.0, "nothing: V1 always samples with 1.0"),
}
"""key -> (the only value that works, what to write instead)."""

_UNTYPED = {"algorithm.rollout_correction": "verl.trainer.config.RolloutCorrectionConfig"}
"""Sections without `_target_` for which VeRL has a dataclass."""

_ALSO_READ = {"reward": {"reward_kwargs"}, "algorithm": {*DPO_KEYS, penalty.KEY}}
"""Keys that are read although neither VeRL's YAML nor its dataclass has them: those of the reward manager, and ours."""

_NEVER_BUILT = {"algorithm"}
"""Sections whose dataclass V1 does not build: so nothing refuses their unknown keys."""

_DID_YOU_MEAN = "did you mean "

_HYDRA_KEYS = {"_target_", "_convert_", "_recursive_", "_partial_", "_args_"}


def unread(config: DictConfig) -> Iterator[Finding]:
    for key, (value, fix) in _UNREAD.items():
        got = OmegaConf.select(config, key, default=value)
        if got != value:
            yield error(f"{key}={got} has no effect, expected {value}; write {fix}")


def manager(config: DictConfig) -> Iterator[Finding]:
    """Runs after `verl_cleaner.enable`, which sets our agent loop manager where none is set."""
    from verl_cleaner.rollout.agent_loop_worker import AgentLoopManager

    key = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
    name = OmegaConf.select(config, key)
    try:
        ours = name is not None and issubclass(get_class(name), AgentLoopManager)
    except Exception as failure:
        yield error(f"{key}={name} cannot be imported: {type(failure).__name__}: {failure}")
        return
    if not ours:
        yield warning(
            f"{key}={name} is not ours: VeRL's tool agent loop runs without rollback in its workers unless they choose "
            f"ours, and trajectories that are lost vanish unnoticed; derive it from {AgentLoopManager.__module__}."
            f"{AgentLoopManager.__qualname__}, or leave the key null"
        )


def unknown(config: DictConfig) -> Iterator[Finding]:
    yield from _unknown(config, _stock_config(config.get("model_engine", "dp")), "", _own_estimator(config))
    for section in FSDP_SECTIONS:
        key = f"{section}.fsdp_config.mixed_precision"
        for name, fix in _misspelt(key, OmegaConf.select(config, key), {"param_dtype", "reduce_dtype", "buffer_dtype"}):
            yield error(f"{key}.{name} is unknown; {fix}")


def _own_estimator(config: DictConfig) -> bool:
    from verl.trainer.ppo.core_algos import AdvantageEstimator

    return str(config.algorithm.adv_estimator) not in {str(estimator.value) for estimator in AdvantageEstimator}


def moved(config: DictConfig) -> Iterator[Finding]:
    for section in _LEGACY_SECTIONS:
        if section in config:
            for key, value in _leaves(config[section], section):
                old = next((name for name in _MOVED if key == name or key.startswith(f"{name}.")), None)
                new = _MOVED[old] + key.removeprefix(old) if old else f"reward.{key}"
                if OmegaConf.select(config, new) != value:
                    yield error(f"{key}={value} is accepted and ignored by VeRL 0.9.1; write {new}={value}")


def _leaves(node: DictConfig, path: str) -> Iterator[tuple[str, object]]:
    for key in map(str, node):
        value = OmegaConf.select(node, key)
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{path}.{key}")
        elif value is not None:
            yield f"{path}.{key}", value


def _unknown(node: DictConfig, stock: DictConfig, path: str, own_estimator: bool) -> Iterator[Finding]:
    """In all sections that name a dataclass: keys that neither the dataclass nor VeRL's YAML has."""
    target = _UNTYPED.get(path) or OmegaConf.select(node, "_target_")
    if target is not None:
        try:
            cls = get_class(target)
        except Exception as failure:
            yield error(f"{path}._target_={target} cannot be imported: {type(failure).__name__}: {failure}")
        else:
            known = {field.name for field in fields(cls) if field.init} if is_dataclass(cls) else set(map(str, node))
            known |= {str(key) for key in stock} | _ALSO_READ.get(path, set())
            for key, fix in _misspelt(path, node, known):
                if path.split(".")[0] not in _NEVER_BUILT:
                    yield error(f"{path}.{key} is unknown; {fix}")
                elif fix.startswith(_DID_YOU_MEAN) and not own_estimator:
                    yield error(f"{path}.{key} is not read by VeRL; {fix}")
                else:
                    yield warning(f"{path}.{key} is not read by VeRL, only by code of your own, if any; {fix}")
    for key in map(str, node):
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            below = stock._get_node(key) if key in stock else None
            below = below if isinstance(below, DictConfig) else DictConfig({})
            yield from _unknown(value, below, f"{path}.{key}" if path else key, own_estimator)


@cache
def _stock_config(engine: str) -> DictConfig:
    """VeRL's whole default configuration."""
    name = "" if engine == "dp" else f"{engine}_"
    config = OmegaConf.load(str(files("verl.trainer.config") / f"_generated_ppo_{name}trainer.yaml"))
    assert isinstance(config, DictConfig)
    return config


def _misspelt(path: str, node: DictConfig | None, known: set[str]) -> Iterator[tuple[str, str]]:
    """(key, what to do about it)."""
    for key in sorted({str(key) for key in node or ()} - known - _HYDRA_KEYS):
        near = nearest(key, known, cutoff=0.75)
        yield key, f"{_DID_YOU_MEAN}{path}.{near}?" if near else f"{path} has: {', '.join(sorted(known))}"
