"""What a quickstart prints while it runs: at most 80 columns, a line at least every ten seconds."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cleaner_lab.nano.arms import Arm
from cleaner_lab.nano.curves import held_out_accuracy
from verl_cleaner.records.metrics import second_validation

WIDTH = 80
SECONDS_BETWEEN_LINES = 8
LEGEND = (
    "[cleaner] Below: accuracy of the step's trajectories; failed tool calls each,\n"
    "          as sampled → as trained on; how many of the failed turns were repaired"
)
_PHASES = (
    ("Training Progress", "training"),
    ("all initialize finished", "measuring the policy on held-out tasks"),
    ("Started a local Ray instance", "starting the trainer and the rollout server"),
)
"""What VeRL and Ray write into the log, and what goes on from there; the latest first."""


class Log:
    """The training's log, read as it grows, for what goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._phase = len(_PHASES)

    def phase(self) -> str:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
            # The next call reads a line that is not whole yet once more.
            self._offset += text.rfind(b"\n") + 1
            found = (number for number, (mark, _) in enumerate(_PHASES) if mark.encode() in text)
            self._phase = min(self._phase, next(found, self._phase))
        return _PHASES[self._phase][1] if self._phase < len(_PHASES) else "starting Ray"


def opening(steps: int, arms: Sequence[Arm], *, fresh: bool) -> str:
    """What will happen and how long it takes, in one sentence."""
    seconds = len(arms) * (_START_SECONDS + _STEP_SECONDS * steps) + _FRESH_SECONDS * fresh
    minutes = max(1, round(seconds / 60))
    cold = "is trained from scratch, then " if fresh else ""
    runs = ", then ".join(_WHAT[arm.name] for arm in arms)
    text = (
        f"A small policy {cold}learns to call Python in {steps} steps of RL, {runs}: "
        f"about {minutes} minute{'s' * (minutes > 1)} on two idle cores."
    )
    return textwrap.fill(text, WIDTH, initial_indent="[cleaner] ", subsequent_indent=" " * 10)


def step_line(step: int, metrics: Mapping[str, Any], *, total: int) -> str:
    """One line a step, and one for its validation."""
    start = f"  step {step:>3}/{total}"
    lines = []
    if "critic/score/acc" in metrics:
        sampled, left = (metrics[f"tool_calls/{name}_per_trajectory"] for name in ("sampled_failures", "failures"))
        parts = [start, f"accuracy {metrics['critic/score/acc']:.2f}", f"failed calls {sampled:.2f}"]
        if "rollback/global_triggered" in metrics:
            parts[-1] += f" → {left:.2f}"
            recovered, triggered = (metrics[f"rollback/global_{name}"] for name in ("recovered", "triggered"))
            parts.append(f"repaired {recovered:.0f}/{triggered:.0f}")
        if "timing_s/step" in metrics:
            parts.append(f"{metrics['timing_s/step']:.1f} s")
        lines.append("  ".join(parts))
    held_out, helped = held_out_accuracy(metrics), held_out_accuracy(second_validation(metrics))
    if held_out is not None:
        more = "" if helped is None else f", {helped:.3f} with rollback"
        lines.append(f"{start}  held-out accuracy {held_out:.3f} of the policy alone{more}")
    return "\n".join(lines)


_WHAT = {
    "baseline": "by plain GRPO",
    "cleaner": "with its failed calls repaired as they happen",
    "leaves_half": "with half of each group repaired, learning from the failed calls too",
}
_START_SECONDS, _STEP_SECONDS, _FRESH_SECONDS = 60, 7, 90
"""On two idle cores. The start includes the validations."""
