"""A grid's results as figures: the effect, what happened in training, and the final accuracies.

A method looks the same in every figure. Colours are Okabe and Ito's, for the colour-blind too; the baseline is grey.
The bytes of a figure depend on the results and the library's version alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from cleaner_lab.experiments.learning_curves import (
    BASELINE,
    LAST,
    Axis,
    Curve,
    Run,
    curves,
    final,
    mean_curve,
    methods_of,
    of_method,
    smooth,
)
from verl_cleaner.report.intervals import interval

_GREY = "#6b7078"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
_LINES = ("-", "--", ":")
_DOTS = ("o", "D", "s")
"""Line styles and dots go along with the colours used up."""
_USUAL = (
    *("cleaner", "p05", "pairs", "anneal", "keep", "void", "cleaner_is"),
    *("baseline_is", "p07", "gamma0", "gamma1", "guard"),
)
"""These look the same whichever methods are shown."""
_RECOMMENDED = {"leaves_half": "#117733", "leaves_half_split": "#882255"}
"""Drawn with solid lines, as the baseline is."""
_SMOOTHED = 5


def headline(frame: pd.DataFrame, path: Path) -> None:
    """Held-out accuracy over steps and over generated tokens: mean of the seeds, and each seed as a thin line."""
    with _figure(path, 1, 2, size=(9, 4.2)) as (figure, axes):
        for panel, axis in zip(axes, (Axis.STEPS, Axis.TOKENS), strict=True):
            found = curves(frame, axis=axis)
            scale = 1e6 if axis is Axis.TOKENS else 1
            _lines(panel, _scaled(found, x=scale, y=0.01), frame, each=True)
            panel.set_xlabel("RL step" if axis is Axis.STEPS else "generated tokens, discarded ones included, millions")
        axes[0].set_ylabel("held-out accuracy, %")
        axes[1].sharey(axes[0])
        axes[0].set_title("At equal steps")
        axes[1].set_title("At equal generated tokens")
        _legend(figure, axes[0])


def mechanism(frame: pd.DataFrame, path: Path) -> None:
    """What training did to failures, first attempts, entropy and the trained tokens; each run lightly smoothed."""
    panels = (
        ("train/failures_sampled", "Tool failures a trajectory, as sampled", 1),
        ("train/first_attempt_success", "First attempts that succeed, %", 0.01),
        ("train/entropy", "Entropy, nats", 1),
        ("train/overwritten_share", "Trained tokens that were overwritten, %", 0.01),
    )
    with _figure(path, 2, 2, size=(9, 6.4)) as (figure, axes):
        for panel, (key, title, unit) in zip(axes, panels, strict=True):
            found = {run: smooth(curve, _SMOOTHED) for run, curve in curves(frame, key).items()}
            _lines(panel, _scaled(found, x=1, y=unit), frame, each=False)
            panel.set_title(title)
            panel.set_xlabel(f"RL step (mean of seeds, moving mean of {_SMOOTHED} steps)")
        _legend(figure, *axes)


def final_accuracy(frame: pd.DataFrame, path: Path) -> None:
    """The bare policy, and the same with rollback at test time: a dot per seed, the mean and its 95 % interval."""
    methods, bare = methods_of(frame), curves(frame)
    rollback = curves(frame, "held_out_rollback/accuracy")
    panels: tuple[tuple[str, dict[Run, float]], ...] = (
        (
            f"bare policy, mean of the last {LAST} validations",
            {run: end for run, curve in bare.items() if (end := final(curve)) is not None},
        ),
        ("with test-time rollback, at the end", {run: float(curve.iloc[-1]) for run, curve in rollback.items()}),
    )
    with _figure(path, 1, 2, size=(9, 1.6 + 0.42 * len(methods))) as (figure, axes):
        dots = [100 * value for _, ends in panels for value in ends.values()]
        # An interval of two seeds may be wider than all there is to see.
        margin = max(2.0, 0.2 * (max(dots) - min(dots))) if dots else 0
        for panel, (title, ends) in zip(axes, panels, strict=True):
            for row, method in enumerate(methods):
                _dots(panel, row, [100 * value for value in of_method(ends, method).values()], method, methods)
            panel.set_yticks(range(len(methods)), methods if panel is axes[0] else [""] * len(methods))
            panel.set_ylim(len(methods) - 0.5, -0.5)
            if dots:
                panel.set_xlim(max(0.0, min(dots) - margin), min(100.0, max(dots) + margin))
            panel.set_title(title)
            panel.set_xlabel("held-out accuracy, %")
        figure.supxlabel(
            "dot: a seed; bars: mean and 95 % t interval over seeds, cut at the edges; dotted: the baseline's mean",
            fontsize="small",
        )


def _dots(panel: Any, row: int, values: Sequence[float], method: str, methods: Sequence[str]) -> None:
    style = _style(method, methods)
    color, dot = style["color"], _DOTS[_LINES.index(style["linestyle"])]
    panel.plot(values, [row] * len(values), dot, color=color, markersize=8, alpha=0.5, markeredgewidth=0)
    found = interval(values)
    if found and found.low is not None:
        panel.plot([found.mean], [row], "|", color=color, markersize=18, markeredgewidth=2.5)
        panel.plot([found.low, found.high], [row, row], color=color, linewidth=2)
    if found and method == BASELINE:
        panel.axvline(found.mean, color=color, linewidth=1, linestyle=":")


FIGURES = {"headline.png": headline, "mechanism.png": mechanism, "final.png": final_accuracy}


def _scaled(found: Mapping[Run, Curve], *, x: float, y: float) -> dict[Run, Curve]:
    return {run: pd.Series(curve.to_numpy() / y, index=curve.index / x) for run, curve in found.items()}


def _lines(panel: Any, found: Mapping[Run, Curve], frame: pd.DataFrame, *, each: bool) -> None:
    methods = methods_of(frame)
    for method in methods:
        runs = list(of_method(found, method).values())
        if not runs:
            continue
        style = _style(method, methods)
        for curve in runs if each else ():
            panel.plot(curve.index, curve, **style, linewidth=0.8, alpha=0.4)
        mean = mean_curve(runs)
        seeds = f"{len(runs)} seed" + "s" * (len(runs) > 1)
        panel.plot(mean.index, mean, **style, linewidth=2.4, label=f"{method} ({seeds})")
    if not panel.lines:
        panel.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=panel.transAxes)


def _style(method: str, methods: Sequence[str]) -> dict[str, str]:
    if method == BASELINE:
        return {"color": _GREY, "linestyle": "-"}
    if method in _RECOMMENDED:
        return {"color": _RECOMMENDED[method], "linestyle": "-"}
    known = [*_USUAL, *sorted(set(methods) - {BASELINE, *_USUAL})]
    round_, place = divmod(known.index(method), len(_COLORS))
    return {"color": _COLORS[place], "linestyle": _LINES[round_ % len(_LINES)]}


def _legend(figure: Any, *panels: Any) -> None:
    """One for all panels, below them."""
    shown: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=min(4, len(shown)), frameon=False)


@contextmanager
def _figure(path: Path, rows: int, columns: int, *, size: tuple[float, float]) -> Iterator[tuple[Any, list[Any]]]:
    """A figure and its panels in reading order, saved at the end; the user's matplotlibrc does not count."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=size, layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        yield figure, panels
        for panel in panels:
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        # matplotlib would name its version in the file.
        figure.savefig(path, dpi=200, metadata={"Software": None})
