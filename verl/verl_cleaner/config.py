"""VeRL's multi-turn configuration with SAAR's parameters, so that `+...multi_turn.enable_tool_rollback=True` works."""

from dataclasses import field, fields, make_dataclass
from typing import Any

from omegaconf import OmegaConf
from verl.workers.config.rollout import MultiTurnConfig as StockMultiTurnConfig

from verl_cleaner.saar.config import RollbackConfig

ROLLBACK_KEYS = tuple(parameter.name for parameter in fields(RollbackConfig))


def rollback_config(multi_turn: Any) -> RollbackConfig:
    """SAAR's part of a multi-turn section (any mapping). Raises ValueError for bad values."""
    values = {key: multi_turn[key] for key in ROLLBACK_KEYS if key in multi_turn}
    kinds = values.get("rollback_on_errors")
    if kinds is not None and not isinstance(kinds, (str, int, float)):
        values["rollback_on_errors"] = tuple(kinds)
    if OmegaConf.is_config(values.get("tool_contracts")):
        values["tool_contracts"] = OmegaConf.to_container(values["tool_contracts"], resolve=True)
    return RollbackConfig(**values)


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
