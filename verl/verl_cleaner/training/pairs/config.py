"""The keys of DPO under `algorithm`, and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from math import isfinite
from typing import Any

from verl_cleaner.saar.values import expect, is_number


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
        on, beta, ratio = self.use_dpo_on_tool_calls, self.dpo_beta, self.dpo_max_adjustment_ratio
        expect(isinstance(on, bool), "use_dpo_on_tool_calls", on, "True or False")
        expect(is_number(beta) and isfinite(beta) and beta > 0, "dpo_beta", beta, "a number > 0")
        expect(is_number(ratio) and 0 < ratio <= 1, "dpo_max_adjustment_ratio", ratio, "in (0, 1]")
        choices = list(Reference)
        expect(self.dpo_reference in choices, "dpo_reference", self.dpo_reference, f"one of {', '.join(choices)}")


DPO_KEYS = tuple(field.name for field in fields(DpoConfig))


def dpo_config(algorithm: Mapping[str, Any]) -> DpoConfig:
    """The keys of DPO in an `algorithm` section. Raises ValueError for bad values."""
    return DpoConfig(**{key: algorithm[key] for key in DPO_KEYS if key in algorithm})
