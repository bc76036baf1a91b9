"""The training runs that a quickstart compares, and what came of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TURNS = "+actor_rollout_ref.rollout.multi_turn"
ROLLBACK = (
    f"{_TURNS}.enable_tool_rollback=True",
    # Held-out accuracy is that of the bare policy; that with rollback is measured beside it.
    f"{_TURNS}.rollback_at_validation=False",
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One training run: its name and what it sets."""

    name: str
    overrides: tuple[str, ...]


BASELINE, CLEANER = Arm("baseline", ()), Arm("cleaner", ROLLBACK)
# What docs/experiments.md recommends for a policy that acts without rollback.
LEAVES_HALF = Arm(
    "leaves_half",
    (
        *ROLLBACK,
        f"{_TURNS}.rollback_failed_calls=leaf",
        f"{_TURNS}.rollback_probability=0.5",
        f"{_TURNS}.rollback_stratified=True",
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """steps: (step, metrics as logged) in order; step 0 is the validation before training."""

    arm: Arm
    folder: Path
    steps: list[tuple[int, dict[str, Any]]]
    seconds: float
