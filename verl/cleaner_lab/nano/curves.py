"""Curves of one or several runs per method, with the spread over seeds where there are several."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cleaner_lab.nano import chains
from cleaner_lab.nano.tasks import UNSEEN

Steps = Sequence[tuple[int, Mapping[str, Any]]]
"""(step, metrics as logged) in order; step 0 is the validation before training."""

ONLY_HELD_OUT = {UNSEEN: "unseen", **{kind: kind for kind in chains.ONLY_HELD_OUT}}
"""Families and kinds that the training does not have, and what their accuracy is called in results."""

_ACCURACY = re.compile(r"val-core/(?:reasoning_gym|chain)/([^/]+)/acc/mean@\d+")
_COLORS = {"baseline": "#8a8f98", "cleaner": "#1668b8", "leaves_half": "#d9731a"}


def family_accuracies(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Held-out accuracy per task family or kind of chain, from the metrics of a step that validated."""
    return {found[1]: float(value) for key, value in metrics.items() if (found := _ACCURACY.fullmatch(key))}


def held_out_accuracy(metrics: Mapping[str, Any]) -> float | None:
    """Mean over the families that occur in training; None where this step did not validate."""
    accuracies = [value for family, value in family_accuracies(metrics).items() if family not in ONLY_HELD_OUT]
    return sum(accuracies) / len(accuracies) if accuracies else None


def plot(methods: Mapping[str, Sequence[Steps]], path: Path) -> None:
    """Accuracy, tool failures, repaired share, tokens and seconds over the steps; mean and range of the runs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 3, figsize=(12, 6.4), constrained_layout=True)
    axes = list(grid.flat)
    axes.pop().set_axis_off()
    for name, runs in methods.items():
        color = _COLORS.get(name)
        _draw(axes[0], runs, held_out_accuracy, color=color, marker="o", label=name)
        _draw(
            axes[1], runs, _reader("tool_calls/sampled_failures_per_trajectory"), color=color, label=f"{name}, sampled"
        )
        left = _reader("tool_calls/failures_per_trajectory")
        _draw(axes[1], runs, left, color=color, linestyle=":", label=f"{name}, trained on")
        for axis, key in zip(
            axes[2:], ("rollback/global_recovery_rate", "tokens/generated", "timing_s/step"), strict=True
        ):
            _draw(axis, runs, _reader(key), color=color, label=name)
    titles = (
        "Held-out accuracy, no test-time rollback",
        "Tool failures a trajectory, in training",
        "Share of failed turns that were repaired",
        "Tokens generated a step, retries included",
        "Seconds a step",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("RL step")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _reader(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda metrics: metrics.get(key)


def _draw(axis: Any, runs: Sequence[Steps], read: Callable[[Mapping[str, Any]], float | None], **style: Any) -> None:
    values: dict[int, list[float]] = {}
    for run in runs:
        for step, metrics in run:
            value = read(metrics)
            if value is not None:
                values.setdefault(step, []).append(value)
    if not values:
        return
    steps = sorted(values)
    axis.plot(steps, [sum(values[step]) / len(values[step]) for step in steps], **style)
    if len(runs) > 1:
        low, high = ([pick(values[step]) for step in steps] for pick in (min, max))
        axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
