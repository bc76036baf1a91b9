"""VeRL's multi-turn configuration with SAAR's parameters, so that `+...multi_turn.enable_tool_rollback=True` works."""

from dataclasses import field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from verl.workers.config.rollout import MultiTurnConfig as StockMultiTurnConfig
from yaml import YAMLError

from verl_cleaner.saar.config import RollbackConfig

ROLLBACK_KEYS = tuple(parameter.name for parameter in fields(RollbackConfig))


def rollback_config(multi_turn: Any) -> RollbackConfig:
    """SAAR's part of a multi-turn section (any mapping). Raises ValueError for bad values."""
    values = {key: multi_turn[key] for key in ROLLBACK_KEYS if key in multi_turn}
    kinds = values.get("rollback_on_errors")
    if kinds is not None and not isinstance(kinds, (str, int, float)):
        values["rollback_on_errors"] = tuple(kinds)
    if values.get("tool_contracts") is not None:
        values["tool_contracts"] = _contracts(values["tool_contracts"])
    return RollbackConfig(**values)


def _contracts(given: Any) -> Any:
    """The mapping itself, or what the YAML file holds that is named instead."""
    if OmegaConf.is_config(given):
        return OmegaConf.to_container(given, resolve=True)
    return _contracts_of_file(given) if isinstance(given, str) else given


@cache
def _contracts_of_file(path: str) -> Any:
    """Every trajectory asks for it. Raises ValueError for a file that cannot be read."""
    try:
        return OmegaConf.to_container(OmegaConf.load(Path(path).expanduser()), resolve=True)
    except (OSError, YAMLError, OmegaConfBaseException) as problem:
        raise ValueError(
            f"tool_contracts={path}: expected a YAML file of contracts by tool name, on every node: {problem}"
        ) from problem


MultiTurnConfig: Any = make_dataclass(
    "MultiTurnConfig",
    [(parameter.name, Any, field(default=parameter.default)) for parameter in fields(RollbackConfig)],
    bases=(StockMultiTurnConfig,),
    namespace={
        "__doc__": "VeRL's fields and those of `RollbackConfig`, which checks them.",
        # Configurations travel between processes by pickle.
        "__module__": __name__,
        "__post_init__": rollback_config,
    },
)
"""What `multi_turn._target_` names."""
