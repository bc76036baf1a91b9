"""A grid's results in Markdown: the effect, the effect at equal budgets, what happened in training, what is left open.

Accuracies are percent, their differences percentage points. Intervals are 95 % Student t intervals over seeds.
"""

import math
import statistics as stdlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from verl_cleaner.experiments.statistics import (
    BASELINE,
    LAST,
    Axis,
    Curve,
    Interval,
    Run,
    area,
    at,
    binomial_error,
    common_budget,
    curves,
    differences,
    final,
    final_differences,
    finals,
    first_reach,
    interval,
    methods_of,
    of_method,
)

EDGE = 10
"""Training steps that "first" and "last" mean in the table of training."""
_NONE = "–"


def report(frame: pd.DataFrame, about: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """All tables. about: `grid` (its name), `held_out_tasks`, `unseen_tasks`, as far as known. notes: come first."""
    parts = [
        f"# Results of {about.get('grid', 'a grid')}",
        "Accuracy is percent of held-out tasks, without test-time rollback unless said; differences are percentage "
        "points. ± is the standard deviation over seeds, [low, high] the 95 % Student t interval of the mean over "
        "seeds. Differences to the baseline are within seeds: same cold start, same tasks.",
        *notes,
        headline(frame, about),
        *(equal_budget(frame, axis) for axis in Axis),
        "\n\n".join(reaching(frame, axis) for axis in Axis),
        training(frame),
        undecided(frame),
    ]
    return "\n\n".join(parts) + "\n"


def headline(frame: pd.DataFrame, about: Mapping[str, Any]) -> str:
    held_out = curves(frame)
    baseline = of_method(held_out, BASELINE)
    unseen = curves(frame, "held_out/unseen_accuracy")
    rollback = [curves(frame, f"held_out_rollback/{key}") for key in ("accuracy", "unseen_accuracy")]
    rows = [
        ["method", "seeds", f"final accuracy, mean of the last {LAST} validations", "each seed", "− baseline",
         "last validation", "unseen family", "with test-time rollback", "unseen family, with it"]
    ]  # fmt: skip
    for method in methods_of(frame):
        runs = of_method(held_out, method)
        ends = finals(runs)
        rows.append([
            method, str(len(runs)), _spread(ends.values(), of=len(runs)),
            " ".join(_percent(value) for value in ends.values()),
            _NONE if method == BASELINE else _interval(final_differences(runs, baseline).values(), of=len(runs)),
            _spread(curve.iloc[-1] for curve in runs.values()),
            _spread(finals(of_method(unseen, method)).values(), of=len(runs)),
            *(_spread((curve.iloc[-1] for curve in of_method(found, method).values()), of=len(runs))
              for found in rollback),
        ])  # fmt: skip
    start = interval(curve.iloc[0] for curve in held_out.values() if curve.index[0] == 0)
    notes = [f"Before training: {_percent(start.mean)}."] if start else []
    for what, runs, key in (
        ("held-out", baseline, "held_out_tasks"),
        ("unseen", of_method(unseen, BASELINE), "unseen_tasks"),
    ):
        if (mean := interval(finals(runs).values())) and (tasks := about.get(key)):
            error = 100 * binomial_error(mean.mean, tasks)
            notes.append(f"Noise floor: one evaluation on {tasks} {what} tasks has a standard error of {error:.1f}.")
    return "\n\n".join(["## Final accuracy", _table(rows), *notes, *_incomplete(held_out)])


def _incomplete(held_out: Mapping[Run, Curve]) -> list[str]:
    last = max(curve.index[-1] for curve in held_out.values())
    short = [f"{m} seed {s} (step {c.index[-1]})" for (m, s), c in held_out.items() if c.index[-1] < last]
    if not short:
        return []
    return [
        f"Not validated up to step {last}: {', '.join(short)}. Their own last validations are in the means; "
        "differences take both runs of a pair up to the last step that both validated."
    ]


def equal_budget(frame: pd.DataFrame, axis: Axis) -> str:
    """Accuracy once every run has spent as much as the run that spent least, and on the way there."""
    found = curves(frame, axis=axis)
    budget, (method, seed) = common_budget(found)
    rows = [["method", "accuracy", "− baseline", "mean on the way (area under the curve)", "− baseline"]]
    for name in methods_of(frame):
        cells = []
        for value in (at, area):
            mine, base = _values(found, name, value, budget), _values(found, BASELINE, value, budget)
            cells += [
                _spread(mine.values()),
                _NONE if name == BASELINE else _interval(differences(mine, base).values(), of=len(mine)),
            ]
        rows.append([name, *cells])
    how = "" if axis is Axis.STEPS else "Linear between validations. "
    text = f"{how}One validation, not the mean of {LAST}. Every run is cut where {method}, seed {seed} ends."
    return "\n\n".join([f"## At equal {axis}: {_amount(budget, axis)}", text, _table(rows)])


def _values(
    found: Mapping[Run, Curve], method: str, value: Callable[[Curve, float], float], budget: float
) -> dict[int, float]:
    return {seed: value(curve, budget) for seed, curve in of_method(found, method).items()}


def reaching(frame: pd.DataFrame, axis: Axis) -> str:
    """What a method spends until it is first as good as the baseline at its end."""
    found, steps = curves(frame, axis=axis), of_method(curves(frame), BASELINE)
    levels = finals(steps)
    level = stdlib.mean(levels.values()) if levels else math.inf
    spent = {seed: curve.index[-1] for seed, curve in of_method(found, BASELINE).items()}
    all_spent = stdlib.mean(spent.values())
    rows = [
        ["method", "level of the same seed: each seed", "median", "reached", "of the baseline's " + axis,
         f"level {_percent(level) if levels else _NONE}, the baseline's mean: each seed", "median", "reached",
         "of the baseline's " + axis]
    ]  # fmt: skip
    for name in methods_of(frame):
        runs = of_method(found, name)
        own = {seed: first_reach(curve, levels[seed]) for seed, curve in runs.items() if seed in levels}
        mean = {seed: first_reach(curve, level) for seed, curve in runs.items() if levels}
        shares = [(own[seed] / spent[seed]) for seed in own if spent[seed]]
        rows.append([name, *_reached(own, runs, axis), _share(shares)])
        rows[-1] += [*_reached(mean, runs, axis), _share([value / all_spent for value in mean.values() if all_spent])]
    lines = [f"## {axis.capitalize()} to the baseline's final accuracy", _table(rows)]
    if axis is Axis.STEPS:
        lines.insert(
            1,
            f"Where held-out accuracy is first at the baseline's final one (mean of its last {LAST} validations), "
            "linear between validations. The published claim is a third of the baseline's steps. A first crossing is "
            "early where evaluations are noisy, the baseline's own included: its row says by how much. "
            "A run that does not get there counts in the median as later than all others.",
        )
    return "\n\n".join(lines)


def _reached(found: Mapping[int, float], runs: Mapping[int, Curve], axis: Axis) -> list[str]:
    """Cells: each seed, median, how many."""
    if not found:
        return [_NONE] * 3
    each = ", ".join(
        _amount(value, axis) if math.isfinite(value) else f"not in {_amount(runs[seed].index[-1], axis)}"
        for seed, value in found.items()
    )
    middle = stdlib.median(found.values())
    count = sum(map(math.isfinite, found.values()))
    return [each, _amount(middle, axis) if math.isfinite(middle) else "not reached", f"{count} of {len(found)}"]


def _share(shares: Sequence[float]) -> str:
    if not shares:
        return _NONE
    middle = stdlib.median(shares)
    return f"{middle:.2f}" if math.isfinite(middle) else "not reached"


def training(frame: pd.DataFrame) -> str:
    """A column a method; what a method does not record is a dash."""
    methods = methods_of(frame)
    rows = [["", *methods]]
    first, last = f"first {EDGE} steps", f"last {EDGE} steps"
    for title, key, how, show in (
        ("first attempts that succeed, held-out, at the end", "held_out/first_attempt_success", final, _percent),
        (f"first attempts that succeed, in training, {last}", "train/first_attempt_success", _last, _percent),
        (f"accuracy in training, {last}", "train/accuracy", _last, _percent),
        (f"failures a trajectory as sampled, {first}", "train/failures_sampled", _first, _number),
        (f"failures a trajectory as sampled, {last}", "train/failures_sampled", _last, _number),
        (f"failures a trajectory as trained on, {last}", "train/failures_left", _last, _number),
        (f"failed turns recovered, {first}", "train/recovery_rate", _first, _percent),
        (f"failed turns recovered, {last}", "train/recovery_rate", _last, _percent),
        (f"trained tokens that were overwritten, {first}", "train/overwritten_share", _first, _percent),
        (f"trained tokens that were overwritten, {last}", "train/overwritten_share", _last, _percent),
        ("purification gap, nats a span, all steps", "train/gap", _mean, _number),
        (f"entropy, {last}", "train/entropy", _last, _number),
        (f"KL, {last}", "train/kl", _last, _number),
        (f"tokens a trajectory, {last}", "train/response_length", _last, "{:.0f}".format),
        ("tokens generated a step, all steps", "train/tokens_generated", _mean, "{:,.0f}".format),
        ("seconds a step, all steps", "train/seconds", _mean, "{:.1f}".format),
    ):
        found = curves(frame, key)
        rows.append([title, *(_over_seeds(of_method(found, method), how, show) for method in methods)])
    title = "generated tokens that were discarded, all steps"
    rows.insert(-1, [title, *(_discarded(frame, method) for method in methods)])
    text = f"Means over steps and seeds; the held-out row is of the last {LAST} validations. Shares are percent."
    return "\n\n".join(["## What happened in training", text, _table(rows)])


def _over_seeds(runs: Mapping[int, Curve], how: Callable[[Curve], float | None], show: Callable[[float], str]) -> str:
    values = [value for curve in runs.values() if (value := how(curve)) is not None]
    return show(stdlib.mean(values)) if values else _NONE


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
    return _percent(discarded / generated) if generated and discarded is not None else _NONE


def undecided(frame: pd.DataFrame) -> str:
    """Every pair of methods whose interval holds zero, or that has no interval."""
    steps = curves(frame)
    spent = {f"at equal {axis}": curves(frame, axis=axis) for axis in (Axis.TOKENS, Axis.SECONDS)}
    budgets = {name: common_budget(found)[0] for name, found in spent.items()}
    lines, without, count, open_ = [], [], 0, 0
    for other, method in combinations(methods_of(frame), 2):
        ends = final_differences(of_method(steps, method), of_method(steps, other))
        pair = {"final accuracy": interval(ends.values())}
        for name, found in spent.items():
            mine, base = (_values(found, run, at, budgets[name]) for run in (method, other))
            pair[name] = interval(differences(mine, base).values())
        known = {name: found for name, found in pair.items() if found and found.holds_zero is not None}
        holding = [f"{name} {_shown(found)}" for name, found in known.items() if found.holds_zero]
        count, open_ = count + len(known), open_ + len(holding)
        if holding:
            lines.append(f"- {method} − {other}: " + "; ".join(holding))
        if not known:
            without.append((method, other))
    text = [
        "## What these data do not decide",
        f"Of {count} intervals {open_} hold zero: a difference of either sign within the interval fits the data. They "
        "are not corrected for their number: without any effect at all, one in twenty would leave zero out.",
    ]
    text += ["\n".join(lines)] if lines else []
    if without:
        text.append(f"No interval, for want of two seeds that both have: {_without(methods_of(frame), without)}.")
    return "\n\n".join(text)


def _without(methods: Sequence[str], pairs: Sequence[tuple[str, str]]) -> str:
    """The pairs in words; a method that has no interval with any other is named once."""
    alone = [name for name in methods if sum(name in pair for pair in pairs) == len(methods) - 1]
    words = [f"{', '.join(alone)} against any other method"] if alone else []
    return "; ".join([*words, *(f"{one} − {other}" for one, other in pairs if not {one, other} & set(alone))])


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _spread(values: Iterable[float], *, of: int = 0) -> str:
    """of: runs that the method has; where fewer of them have a value, the cell says so."""
    found = interval(values)
    if found is None:
        return _NONE
    return _percent(found.mean) + ("" if found.sd is None else f" ± {100 * found.sd:.1f}") + _few(found, of)


def _interval(values: Iterable[float], *, of: int) -> str:
    """of: as for _spread."""
    found = interval(values)
    return _NONE if found is None else _shown(found) + _few(found, of)


def _few(found: Interval, of: int) -> str:
    return f" ({found.seeds} of {of} seeds)" if found.seeds < of else ""


def _shown(found: Interval) -> str:
    mean = f"{100 * found.mean:+.1f}"
    if found.low is None or found.high is None:
        return f"{mean}, one seed: no interval"
    return f"{mean} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _amount(value: float, axis: Axis) -> str:
    return f"{value / 1e6:.2f} M" if axis is Axis.TOKENS and value >= 1e6 else f"{value:,.0f}"
