"""The parameters of credit under `algorithm`, checked once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """failed_call_penalty: what the advantage of a failed call's tokens is lowered by; 0 leaves it as it is.

    Raises:
        ValueError: for a value out of range; names the key, the value and what is expected.
    """

    failed_call_penalty: float = 0.0

    def __post_init__(self) -> None:
        penalty = self.failed_call_penalty
        if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not isfinite(penalty) or penalty < 0:
            raise ValueError(f"failed_call_penalty must be a number >= 0, got {penalty!r}")


CREDIT_KEYS = tuple(field.name for field in fields(CreditConfig))


def credit_config(algorithm: Mapping[str, Any]) -> CreditConfig:
    """The part of an `algorithm` section. Raises ValueError for bad values."""
    return CreditConfig(**{key: algorithm[key] for key in CREDIT_KEYS if key in algorithm})
