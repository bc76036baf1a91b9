"""What happened in training, a column a method: failures, repairs, tokens, time."""

import math
import statistics as stdlib
from collections.abc import Callable, Mapping

import pandas as pd

from cleaner_lab.experiments.cells import NONE, number, percent
from cleaner_lab.experiments.learning_curves import LAST, Curve, curves, final, methods_of, of_method
from verl_cleaner.report.tables import markdown_table

EDGE = 10
"""Training steps that "first" and "last" mean."""


def training(frame: pd.DataFrame) -> str:
    """A column a method; what a method does not record is a dash."""
    methods = methods_of(frame)
    # The last steps are the run's, also of a metric that ended before.
    ends = {str(key): int(step) for key, step in frame.groupby(["method", "seed"])["step"].max().items()}
    rows = [["", *methods]]
    first, last = f"first {EDGE} steps", f"last {EDGE} steps"
    for title, key, how, show in (
        ("first attempts that succeed, held-out, at the end", "held_out/first_attempt_success", final, percent),
        (f"first attempts that succeed, in training, {last}", "train/first_attempt_success", _last, percent),
        (f"accuracy in training, {last}", "train/accuracy", _last, percent),
        (f"failures a trajectory as sampled, {first}", "train/failures_sampled", _first, number),
        (f"failures a trajectory as sampled, {last}", "train/failures_sampled", _last, number),
        (f"failures a trajectory as trained on, {last}", "train/failures_left", _last, number),
        (f"failed turns recovered, {first}", "train/recovery_rate", _first, percent),
        (f"failed turns recovered, {last}", "train/recovery_rate", _last, percent),
        (f"trained tokens that were overwritten, {first}", "train/overwritten_share", _first, percent),
        (f"trained tokens that were overwritten, {last}", "train/overwritten_share", _last, percent),
        ("purification gap, nats a span, all steps", "train/gap", _mean, number),
        (f"groups of one score, which teach nothing, {first}", "train/zero_variance_groups", _first, percent),
        (f"groups of one score, which teach nothing, {last}", "train/zero_variance_groups", _last, percent),
        (f"entropy, {last}", "train/entropy", _last, number),
        (f"KL, {last}", "train/kl", _last, number),
        ("gradient norm, all steps", "train/grad_norm", _mean, number),
        (f"tokens a trajectory, {last}", "train/response_length", _last, "{:.0f}".format),
        ("tokens generated a step, all steps", "train/tokens_generated", _mean, "{:,.0f}".format),
        ("seconds a step, all steps", "train/seconds", _mean, "{:.1f}".format),
    ):
        found = curves(frame, key)
        padded = {run: curve.reindex(range(1, ends[str(run)] + 1)) for run, curve in found.items()}
        shown = found if how is final else padded
        rows.append([title, *(_over_seeds(of_method(shown, method), how, show) for method in methods)])
    title = "generated tokens that were discarded, all steps"
    rows.insert(-1, [title, *(_discarded(frame, method) for method in methods)])
    text = f"Means over steps and seeds; the held-out row is of the last {LAST} validations. Shares are percent."
    return "\n\n".join(["## What happened in training", text, markdown_table(rows)])


def _over_seeds(runs: Mapping[int, Curve], how: Callable[[Curve], float | None], show: Callable[[float], str]) -> str:
    values = [value for curve in runs.values() if (value := how(curve)) is not None and not math.isnan(value)]
    return show(stdlib.mean(values)) if values else NONE


def _first(curve: Curve) -> float:
    return float(curve[curve.index <= EDGE].mean())


def _last(curve: Curve) -> float:
    return float(curve[curve.index > curve.index[-1] - EDGE].mean())


def _mean(curve: Curve) -> float:
    return float(curve.mean())


def _discarded(frame: pd.DataFrame, method: str) -> str:
    rows = frame[frame["method"] == method]
    sums = rows.groupby("metric")["value"].sum()
    discarded, generated = (sums.get(f"train/tokens_{kind}") for kind in ("discarded", "generated"))
    return percent(discarded / generated) if generated and discarded is not None else NONE
