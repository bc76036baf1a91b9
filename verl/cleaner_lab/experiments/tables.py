"""A grid's results in Markdown: the effect, the effect at equal budgets, what happened in training, what is left open.

Accuracies are percent, their differences percentage points. Intervals are 95 % Student t intervals over seeds.
"""

import math
import statistics as stdlib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from cleaner_lab.experiments.cells import NONE, amount, difference, percent, shown, spread
from cleaner_lab.experiments.learning_curves import (
    BASELINE,
    LAST,
    Axis,
    Curve,
    Run,
    area,
    at,
    common_budget,
    curves,
    differences,
    final_differences,
    finals,
    first_reach,
    methods_of,
    of_method,
)
from cleaner_lab.experiments.training import training
from verl_cleaner.report.intervals import binomial_error, interval
from verl_cleaner.report.tables import markdown_table


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
            method, str(len(runs)), spread(ends.values(), of=len(runs)),
            " ".join(percent(value) for value in ends.values()),
            NONE if method == BASELINE else difference(final_differences(runs, baseline).values(), of=len(runs)),
            spread(curve.iloc[-1] for curve in runs.values()),
            spread(finals(of_method(unseen, method)).values(), of=len(runs)),
            *(spread((curve.iloc[-1] for curve in of_method(found, method).values()), of=len(runs))
              for found in rollback),
        ])  # fmt: skip
    start = interval(curve.iloc[0] for curve in held_out.values() if curve.index[0] == 0)
    notes = [f"Before training: {percent(start.mean)}."] if start else []
    for what, runs, key in (
        ("held-out", baseline, "held_out_tasks"),
        ("unseen", of_method(unseen, BASELINE), "unseen_tasks"),
    ):
        if (mean := interval(finals(runs).values())) and (tasks := about.get(key)):
            error = 100 * binomial_error(mean.mean, tasks)
            notes.append(f"Noise floor: one evaluation on {tasks} {what} tasks has a standard error of {error:.1f}.")
    return "\n\n".join(["## Final accuracy", markdown_table(rows), *notes, *_incomplete(held_out)])


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
                spread(mine.values()),
                NONE if name == BASELINE else difference(differences(mine, base).values(), of=len(mine)),
            ]
        rows.append([name, *cells])
    how = "" if axis is Axis.STEPS else "Linear between validations. "
    text = f"{how}One validation, not the mean of {LAST}. Every run is cut where {method}, seed {seed} ends."
    return "\n\n".join([f"## At equal {axis}: {amount(budget, axis)}", text, markdown_table(rows)])


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
         f"level {percent(level) if levels else NONE}, the baseline's mean: each seed", "median", "reached",
         "of the baseline's " + axis]
    ]  # fmt: skip
    for name in methods_of(frame):
        runs = of_method(found, name)
        own = {seed: first_reach(curve, levels[seed]) for seed, curve in runs.items() if seed in levels}
        mean = {seed: first_reach(curve, level) for seed, curve in runs.items() if levels}
        shares = [(own[seed] / spent[seed]) for seed in own if spent[seed]]
        rows.append([name, *_reached(own, runs, axis), _share(shares)])
        rows[-1] += [*_reached(mean, runs, axis), _share([value / all_spent for value in mean.values() if all_spent])]
    lines = [f"## {axis.capitalize()} to the baseline's final accuracy", markdown_table(rows)]
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
        return [NONE] * 3
    each = ", ".join(
        amount(value, axis) if math.isfinite(value) else f"not in {amount(runs[seed].index[-1], axis)}"
        for seed, value in found.items()
    )
    middle = stdlib.median(found.values())
    count = sum(map(math.isfinite, found.values()))
    return [each, amount(middle, axis) if math.isfinite(middle) else "not reached", f"{count} of {len(found)}"]


def _share(shares: Sequence[float]) -> str:
    if not shares:
        return NONE
    middle = stdlib.median(shares)
    return f"{middle:.2f}" if math.isfinite(middle) else "not reached"


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
        holding = [f"{name} {shown(found)}" for name, found in known.items() if found.holds_zero]
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
