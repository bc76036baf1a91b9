"""Checks of LoRA: the keys that the trainer reads, and whether the adapter reaches the rollout.

Without `lora.merge` VeRL sends whole weights once, then the adapter alone, which the engine applies to each request.
With it, VeRL sends whole weights that contain the adapter, each time.
"""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_cleaner.preflight.finding import Finding, error, warning
from verl_cleaner.preflight.names import verl_mode

_MODEL = "actor_rollout_ref.model"
_ROLLOUT = "actor_rollout_ref.rollout"
_MERGE = f"{_MODEL}.lora.merge"
_KEYS = {
    "fsdp": (f"{_MODEL}.lora_rank", f"{_MODEL}.lora_adapter_path"),
    "megatron": (f"{_MODEL}.lora.rank", f"{_MODEL}.lora.adapter_path"),
}
"""(rank, adapter to start from) by the trainer that reads them. The engines read both ranks."""
_REQUEST = "LoadLoRAAdapterFromTensorsReqInput"
_SENDER = "workers/rollout/sglang_rollout/sglang_rollout.py"
_RECEIVER = "srt/managers/io_struct.py"


def lora(config: DictConfig) -> Iterator[Finding]:
    strategy = str(config.actor_rollout_ref.actor.strategy)
    trainer = strategy.rstrip("12")
    if trainer in _KEYS:
        (rank, path), (others,) = _KEYS[trainer], [keys for name, keys in _KEYS.items() if name != trainer]
        trains = bool(OmegaConf.select(config, rank))
        for key, unread in zip((rank, path), others, strict=True):
            value = OmegaConf.select(config, unread)
            if value and not (trains and key == rank):
                yield error(
                    f"{unread}={value} is not read with actor_rollout_ref.actor.strategy={strategy}, which would train "
                    f"something else; write {key}={value}"
                )
        start = OmegaConf.select(config, path)
        if start and not trains:
            yield error(
                f"{path}={start} needs {rank}, the rank of this adapter, got {OmegaConf.select(config, rank)}: without "
                "it the adapter is not loaded and all weights are trained"
            )
    sent = adapter_sent(config)
    if sent and verl_mode(config) == "separate_async":
        yield error(
            f"{sent} needs {_MERGE}=True with trainer.v1.trainer_mode={config.trainer.v1.trainer_mode}, got False: the "
            "rollout's own servers get the weights without the adapter, so that they would sample from the untrained "
            "model, or refuse each request"
        )


def sglang_lora(config: DictConfig) -> Iterator[Finding]:
    """Whether the installed SGLang knows the fields with which the installed VeRL sends an adapter."""
    sent = adapter_sent(config)
    if config.actor_rollout_ref.rollout.name != "sglang" or not sent:
        return
    sent = f"{sent} with {_ROLLOUT}.name=sglang"
    outcome = (
        f"the first transfer of the weights fails; write {_MERGE}=True, with which whole weights are sent, or "
        f"{_ROLLOUT}.name=vllm"
    )
    sglang, verl = _folder("sglang"), _folder("verl")
    assert verl
    if sglang is None:
        yield warning(
            f"{sent}: the package sglang is not installed here; SGLang 0.5.12 and 0.5.14 do not take an adapter as "
            f"VeRL 0.9.1 sends it, so that with them {outcome}"
        )
        return
    known = _fields(_parsed(sglang / _RECEIVER), _REQUEST)
    if unknown := sorted(_arguments(_parsed(verl / _SENDER), _REQUEST) - known):
        yield error(
            f"{sent} needs {_MERGE}=True, got False: VeRL sends an adapter with {', '.join(unknown)}, but the "
            f"installed SGLang knows only {', '.join(sorted(known))}, so that {outcome}"
        )


def adapter_sent(config: DictConfig) -> str:
    """The key and the value that make VeRL send an adapter; empty where it sends whole weights."""
    if OmegaConf.select(config, _MERGE):
        return ""
    ranks = {rank: OmegaConf.select(config, rank) or 0 for rank, _ in _KEYS.values()}
    return next((f"{key}={rank}" for key, rank in ranks.items() if rank > 0), "")


def _folder(package: str) -> Path | None:
    """Without importing the package: SGLang takes many seconds, and may need a GPU."""
    spec = find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _arguments(tree: ast.Module, name: str) -> set[str]:
    """The keywords with which something of this name is called."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    ours = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == name]
    return {word.arg for call in ours for word in call.keywords if word.arg}


def _fields(tree: ast.Module, name: str) -> set[str]:
    """Of a dataclass, with those of its bases in the same file. Raises KeyError where there is no such class."""
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    own = [part.target for part in classes[name].body if isinstance(part, ast.AnnAssign)]
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name) and base.id in classes]
    return {field.id for field in own if isinstance(field, ast.Name)}.union(*(_fields(tree, base) for base in bases))
