"""Checks of sizes that VeRL divides in its workers, some of them only after the first rollouts.

world    processes that train: trainer.nnodes × trainer.n_gpus_per_node
dp       of them, those that get rows of their own; the others share a row's tokens or the model's weights
update   rows of one optimizer step: ppo_mini_batch_size × rollout.n
micro    rows of one forward pass, of one process; VeRL takes no smaller rest
"""

import math
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_cleaner.preflight.data import agent_loops
from verl_cleaner.preflight.finding import Finding, error, warning
from verl_cleaner.preflight.names import trains_critic, verl_mode

_ACTOR, _ROLLOUT, _CRITIC = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "critic"
_ONE_ROW_EACH = {"tool_agent", "single_turn_agent"}
"""Agent loops that make one row of a trajectory."""
_MODEL_PARALLEL = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
)


def processes(config: DictConfig) -> Iterator[Finding]:
    """Sequence and model parallelism against the number of processes."""
    world, rollout = _world(config), config.actor_rollout_ref.rollout
    for section in _trained(config):
        shared = _shared_by(config, section)
        for key, size in shared.items():
            if size > 1 and key.endswith("ulysses_sequence_parallel_size"):
                packed = _select(config, _model(section), "use_remove_padding")
                if not packed:
                    yield error(f"{key}={size} needs {_model(section)}.use_remove_padding=True, got {packed}")
        if world % math.prod(shared.values()):
            yield error(f"{_WORLD}={world} cannot be divided by {_product(shared)}; change one of them")
    sizes = {
        f"{_ROLLOUT}.{name}": int(rollout.get(name) or 1)
        for name in ("tensor_model_parallel_size", "data_parallel_size")
    }
    if config.actor_rollout_ref.get("hybrid_engine", True) and world % math.prod(sizes.values()):
        yield error(
            f"{_WORLD}={world} cannot be divided by {_product(sizes)}, the processes of one rollout server; change one"
        )


def batch_sizes(config: DictConfig) -> Iterator[Finding]:
    """What every optimizer step needs, and the data loader."""
    if config.trainer.get("val_only"):
        return
    for section in _trained(config):
        yield from _update(config, section)
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    if actor.use_dynamic_bsz != rollout.log_prob_use_dynamic_bsz:
        yield error(
            f"{_ROLLOUT}.log_prob_use_dynamic_bsz={rollout.log_prob_use_dynamic_bsz} must be the same as "
            f"{_ACTOR}.use_dynamic_bsz, got {actor.use_dynamic_bsz}"
        )
    elif not actor.use_dynamic_bsz:
        if rollout.log_prob_micro_batch_size is not None and rollout.log_prob_micro_batch_size_per_gpu is None:
            yield error(
                f"{_ROLLOUT}.log_prob_micro_batch_size={rollout.log_prob_micro_batch_size} is read no more; write "
                f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu"
            )
    else:
        yield from _tokens(config)
    yield from _loader(config)


def log_prob_rows(config: DictConfig) -> Iterator[Finding]:
    """Log-probs are of a whole batch, padded to whole updates. Where a loop makes several rows of a trajectory, their
    number is not known before."""
    loops, dynamic = agent_loops(config), config.actor_rollout_ref.actor.use_dynamic_bsz
    if config.trainer.get("val_only") or dynamic or loops is None or loops - _ONE_ROW_EACH:
        return
    batch, n, dp = config.data.train_batch_size, config.actor_rollout_ref.rollout.n, _dp(config, _ACTOR)
    updates = [section.ppo_mini_batch_size * n for section in _sections(config)]
    # What `processes` and `batch_sizes` refuse has no rows to count.
    if dp is None or any(rows % dp for rows in updates):
        return
    whole = math.lcm(dp, *updates)
    rows = math.ceil(batch * n / _updates(config) / whole) * whole // dp
    for key in _log_probs(config):
        micro = OmegaConf.select(config, f"{key}.log_prob_micro_batch_size_per_gpu")
        if micro and rows % micro:
            yield error(
                f"{key}.log_prob_micro_batch_size_per_gpu={micro} must divide the rows of a batch on each process: "
                f"data.train_batch_size={batch} × {_ROLLOUT}.n={n}"
                f"{f' in {_updates(config)} updates' if _updates(config) > 1 else ''} on {dp} are {rows}; lower it, or "
                f"write {_ACTOR}.use_dynamic_bsz=True"
            )


def _update(config: DictConfig, section: str) -> Iterator[Finding]:
    of, n, dp = OmegaConf.select(config, section), config.actor_rollout_ref.rollout.n, _dp(config, section)
    if dp is None:
        return
    rows = of.ppo_mini_batch_size * n
    what = f"{section}.ppo_mini_batch_size={of.ppo_mini_batch_size} × {_ROLLOUT}.n={n}"
    if rows % dp:
        yield error(f"{what} must be a multiple of the {dp} processes with rows of their own, got {rows}; raise either")
    # VeRL's critics take packs of tokens whatever critic.use_dynamic_bsz says.
    elif section == _ACTOR and not of.use_dynamic_bsz:
        micro = of.ppo_micro_batch_size_per_gpu
        if micro and rows // dp % micro:
            yield error(
                f"{section}.ppo_micro_batch_size_per_gpu={micro} must divide the rows of an update on each process: "
                f"{what} on {dp} are {rows // dp}; lower it, or write {section}.use_dynamic_bsz=True"
            )


def _tokens(config: DictConfig) -> Iterator[Finding]:
    """A row longer than a pack ends the run; shorter ones may never come up to it."""
    longest = config.data.max_prompt_length + config.data.max_response_length
    shared = math.prod(_shared_by(config, _ACTOR).values())
    for key in (f"{_ACTOR}.ppo_max_token_len_per_gpu", f"{_ROLLOUT}.log_prob_max_token_len_per_gpu"):
        size = OmegaConf.select(config, key)
        if size is None:
            yield error(f"{key}=null, expected the tokens of one forward pass, {longest} or more")
        elif size * shared < longest:
            yield warning(
                f"{key}={size} is less than the longest row, data.max_prompt_length + data.max_response_length = "
                f"{longest}: the first row longer than it ends the run; raise it"
            )


def _loader(config: DictConfig) -> Iterator[Finding]:
    """Other trainers, and groups that are filtered or replaced, load one prompt at a time."""
    sampler, groups = config.trainer.v1.sampler, config.algorithm.get("filter_groups") or {}
    size, batch = config.data.get("gen_batch_size"), config.data.train_batch_size
    alone = verl_mode(config) != "sync" or groups.get("enable") or sampler.get("sync_refill_failed_groups")
    if size and not alone and batch % size:
        yield error(
            f"data.gen_batch_size={size} must divide data.train_batch_size={batch}; leave it out, or change one"
        )


_WORLD = "trainer.nnodes × trainer.n_gpus_per_node"


def _world(config: DictConfig) -> int:
    return int(config.trainer.nnodes * config.trainer.n_gpus_per_node)


def _trained(config: DictConfig) -> list[str]:
    return [_ACTOR, _CRITIC] if trains_critic(config) else [_ACTOR]


def _sections(config: DictConfig) -> list[Any]:
    return [OmegaConf.select(config, section) for section in _trained(config)]


def _model(section: str) -> str:
    return "critic.model" if section == _CRITIC else "actor_rollout_ref.model"


def _select(config: DictConfig, path: str, name: str) -> Any:
    return OmegaConf.select(config, f"{path}.{name}")


def _shared_by(config: DictConfig, section: str) -> dict[str, int]:
    """key: how many processes share rows or weights by it. Of strategies that are not known here, none."""
    strategy = str(OmegaConf.select(config, f"{section}.strategy"))
    if strategy.startswith("fsdp"):
        engine = "fsdp" if section == _CRITIC else "fsdp_config"
        older = f"{section}.ulysses_sequence_parallel_size"
        key = older if (OmegaConf.select(config, older) or 1) > 1 and section == _ACTOR else f"{section}.{engine}.{_SP}"
        return {key: int(OmegaConf.select(config, key) or 1)}
    if strategy == "megatron":
        keys = [f"{section}.megatron.{name}" for name in _MODEL_PARALLEL]
        return {key: int(OmegaConf.select(config, key) or 1) for key in keys}
    return {}


_SP = "ulysses_sequence_parallel_size"


def _dp(config: DictConfig, section: str) -> int | None:
    """None where it is not known, or `processes` refuses the sizes."""
    shared, world = _shared_by(config, section), _world(config)
    size = math.prod(shared.values())
    return world // size if shared and world % size == 0 else None


def _product(sizes: dict[str, int]) -> str:
    return " × ".join(f"{key}={size}" for key, size in sizes.items())


def _updates(config: DictConfig) -> int:
    """Of one step; `trainer.v1.separate_async` has several."""
    section = config.trainer.v1.get(verl_mode(config)) or {}
    return int(section.get("parameter_sync_step", 1))


def _log_probs(config: DictConfig) -> Iterator[str]:
    """Sections whose size of a micro-batch is used."""
    from verl.trainer.ppo.utils import need_reference_policy

    if not (config.algorithm.get("rollout_correction") or {}).get("bypass_mode"):
        yield _ROLLOUT
    if need_reference_policy(config):
        yield "actor_rollout_ref.ref"
