"""The keys of DPO under `algorithm`, and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from math import isfinite
from typing import Any


class Reference(StrEnum):
    NONE = "none"
    """No reference: the term has a gradient until the repaired call is far more probable than the failed one."""
    REF = "ref"
    """VeRL's reference policy: only the change of the preference against the reference counts."""


@dataclass(frozen=True, slots=True)
class DpoConfig:
    """Fields have the names of the keys under `algorithm`; docs/pairs.md explains them.

    Raises:
        ValueError: for a value out of range; names the key, the value and what is expected.
    """

    use_dpo_on_tool_calls: bool = False
    dpo_beta: float = 0.1
    dpo_max_adjustment_ratio: float = 0.1
    dpo_reference: Reference = Reference.NONE

    def __post_init__(self) -> None:
        if not isinstance(self.use_dpo_on_tool_calls, bool):
            raise ValueError(f"use_dpo_on_tool_calls must be True or False, got {self.use_dpo_on_tool_calls!r}")
        if not _is_number(self.dpo_beta) or self.dpo_beta <= 0:
            raise ValueError(f"dpo_beta must be a number > 0, got {self.dpo_beta!r}")
        if not _is_number(self.dpo_max_adjustment_ratio) or not 0 < self.dpo_max_adjustment_ratio <= 1:
            raise ValueError(f"dpo_max_adjustment_ratio must be in (0, 1], got {self.dpo_max_adjustment_ratio!r}")
        if self.dpo_reference not in list(Reference):
            raise ValueError(f"dpo_reference must be one of {', '.join(Reference)}, got {self.dpo_reference!r}")


DPO_KEYS = tuple(field.name for field in fields(DpoConfig))


def dpo_config(algorithm: Mapping[str, Any]) -> DpoConfig:
    """The keys of DPO in an `algorithm` section. Raises ValueError for bad values."""
    return DpoConfig(**{key: algorithm[key] for key in DPO_KEYS if key in algorithm})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
