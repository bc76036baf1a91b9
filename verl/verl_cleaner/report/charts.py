"""Which metrics make which chart. A chart without data in any run is left out.

A chart shows groups of runs. A group of one is the run; of several, the mean of each step and the range of the runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from verl_cleaner.records.metrics import held_out_accuracy
from verl_cleaner.report.run import Run

Metrics = Mapping[str, float]
MAX_POINTS = 400


class Dash(StrEnum):
    """How the lines of one run are told apart."""

    SOLID = ""
    DOTS = "2 4"
    LONG = "10 4"


class Form(StrEnum):
    LINES = "lines"
    STACK = "stack"
    BARS = "bars"


@dataclass(frozen=True, slots=True)
class Line:
    """read: the value of a step, None where it has none. low, high: of a band, for a single run."""

    label: str
    read: Callable[[Metrics], float | None]
    dash: Dash = Dash.SOLID
    low: Callable[[Metrics], float | None] | None = None
    high: Callable[[Metrics], float | None] | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """unit: "%", "s", "tokens", "nats" or nothing. parts: of stacks and bars, the metrics of a step by name.
    floor: values below it are errors of rounding; the axis does not show less."""

    title: str
    note: str
    unit: str = ""
    form: Form = Form.LINES
    lines: tuple[Line, ...] = ()
    parts: Callable[[Metrics], dict[str, float]] | None = None
    section: str = "Learning"
    floor: float = 0.0


def _key(name: str) -> Callable[[Metrics], float | None]:
    return lambda metrics: metrics.get(name)


def with_rollback(metrics: Metrics) -> bool:
    """Whether this validation rolled back failed calls."""
    return metrics.get("val-aux/rollback/global_triggered", 0.0) > 0


def held_out_failures(metrics: Metrics) -> float | None:
    """Of the policy alone: where validation rolls back, those before repairs."""
    name = "sampled_failures" if with_rollback(metrics) else "failures"
    return metrics.get(f"val-aux/tool_calls/{name}_per_trajectory")


def _below(prefix: str, *, leave_out: Sequence[str] = ()) -> Callable[[Metrics], dict[str, float]]:
    def read(metrics: Metrics) -> dict[str, float]:
        found = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
        return {key: value for key, value in found.items() if key not in leave_out and "/" not in key}

    return read


def _similarity(metrics: Metrics) -> dict[str, float]:
    found = _below("rollback/similarity/")(metrics)
    return {
        f"{float(key[5:]):.1f}–{float(key[5:]) + 0.2:.1f}": value
        for key, value in found.items()
        if key.startswith("from_")
    }


_FAILURES = "tool_calls/failure_reason/"
_PARTS_OF_STEP = ("step", "testing", "save_checkpoint", "generate_sequences")

SPECS = (
    Spec("Held-out accuracy", "Mean over the held-out sets; with rollback if validation rolls back.", "%",
         lines=(Line("", held_out_accuracy),)),
    Spec("Training accuracy", "Share of the step's trajectories that are right.", "%",
         lines=(Line("", _key("critic/score/acc")),)),
    Spec("Reward", "Mean over the step's trajectories.", lines=(Line("", _key("critic/score/mean")),)),
    Spec("Tool failures a trajectory", "Solid: held out, the policy alone. Dashed: training, as sampled. Dots: "
         "training, left after repairs.", section="The policy or the repairs",
         lines=(Line("held out", held_out_failures),
                Line("training, sampled", _key("tool_calls/sampled_failures_per_trajectory"), Dash.LONG),
                Line("training, left", _key("tool_calls/failures_per_trajectory"), Dash.DOTS))),
    Spec("First attempts that succeed", "What the policy can do without help. Solid: held out. Dashed: training.", "%",
         section="The policy or the repairs",
         lines=(Line("held out", _key("val-aux/tool_calls/first_attempt_success_rate")),
                Line("training", _key("tool_calls/first_attempt_success_rate"), Dash.LONG))),
    Spec("Recovery rate", "Share of rolled-back turns that ended without a failure.", "%", section="Tools and repairs",
         lines=(Line("", _key("rollback/global_recovery_rate")),)),
    Spec("Purified share", "Overwritten tokens among those trained on.", "%", section="Tools and repairs",
         lines=(Line("", _key("tokens/overwritten_share")),)),
    Spec("Purification gap", "log π(repair | clean) − log π(repair | as sampled); band: 5th to 95th percentile.",
         "nats", section="Tools and repairs",
         lines=(Line("", _key("rollback/gap/mean"), low=_key("rollback/gap/p05"), high=_key("rollback/gap/p95")),)),
    Spec("Failure kinds", "Failed calls of a step, repaired ones included.", form=Form.STACK,
         section="Tools and repairs", parts=_below(_FAILURES)),
    Spec("Retries a turn", "Rolled-back turns of the whole run, by number of retries.", form=Form.BARS,
         section="Tools and repairs", parts=_below("rollback/retries/")),
    Spec("Similarity of failed and new call", "Retries of the whole run; from γ on only the call is replaced.",
         form=Form.BARS, section="Tools and repairs", parts=_similarity),
    Spec("What became of retries", "Of the whole run.", form=Form.BARS, section="Tools and repairs",
         parts=_below("rollback/result/")),
    Spec("Tokens", "Solid: trained on. Dots: sampled and thrown away.", "tokens", section="Cost",
         lines=(Line("kept", _key("tokens/kept")), Line("discarded", _key("tokens/discarded"), dash=Dash.DOTS))),
    Spec("Response length", "Mean over the step's trajectories.", "tokens", section="Cost",
         lines=(Line("", _key("response_length/mean")),)),
    Spec("Time of a step, by phase", "Without validation and checkpoints.", "s", form=Form.STACK, section="Cost",
         parts=_below("timing_s/", leave_out=_PARTS_OF_STEP)),
    Spec("Tool latency", "Solid: median. Dots: 95th percentile.", "s", section="Cost",
         lines=(Line("p50", _key("tool_calls/latency_s/p50")),
                Line("p95", _key("tool_calls/latency_s/p95"), dash=Dash.DOTS))),
    Spec("Entropy", "Of the policy, in nats a token.", section="Stability", lines=(Line("", _key("actor/entropy")),)),
    Spec("Gradient norm", "", section="Stability", lines=(Line("", _key("actor/grad_norm")),)),
    Spec("Advantages", "Mean; band: smallest to largest.", section="Stability",
         lines=(Line("", _key("critic/advantages/mean"), low=_key("critic/advantages/min"),
                     high=_key("critic/advantages/max")),), floor=1e-4),
    Spec("KL of the update", "Solid: overwritten tokens. Dots: the others.", section="Stability",
         lines=(Line("overwritten", _key("actor/overwritten_kl")),
                Line("sampled", _key("actor/sampled_kl"), dash=Dash.DOTS)), floor=1e-4),
    Spec("KL to the reference", "As VeRL logs it.", section="Stability",
         lines=(Line("", _key("actor/ppo_kl")),), floor=1e-4),
    Spec("Leaves a group", "Repaired failed calls that are trained on as members of their group.", section="Leaves",
         lines=(Line("", _key("leaves/per_group")),)),
    Spec("Share of leaves", "Solid: of the gradient's weight. Dots: of the tokens.", "%", section="Leaves",
         lines=(Line("gradient", _key("leaves/gradient_share")),
                Line("tokens", _key("leaves/token_share"), dash=Dash.DOTS))),
    Spec("Advantage of leaves", "Mean over the step's leaves.", section="Leaves", floor=1e-4,
         lines=(Line("", _key("leaves/advantage_mean")),)),
    Spec("Groups with a signal through leaves", "Their trajectories all have one reward.", section="Leaves",
         lines=(Line("", _key("leaves/saved_groups")),)),
)  # fmt: skip


def chart_data(groups: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
    """As the page's script draws them; a series' `run` is the number of its group."""
    made = [(spec, _lines(spec, groups) if spec.form == Form.LINES else _parts(spec, groups)) for spec in SPECS]
    return [
        {"title": s.title, "note": s.note, "unit": s.unit, "form": str(s.form), "section": s.section, "floor": s.floor}
        | data
        for s, data in made
        if data["series"]
    ]


def _lines(spec: Spec, groups: Sequence[Sequence[Run]]) -> dict[str, Any]:
    series = []
    for number, runs in enumerate(groups):
        for line in spec.lines:
            steps = sorted({step for run in runs for step in run.steps})
            points = [_point(line, step, [run.steps[step] for run in runs if step in run.steps]) for step in steps]
            points = thin([point for point in points if point[1] is not None])
            if points:
                series.append({"run": number, "label": line.label, "dash": str(line.dash), "points": points})
    return {"series": series}


def _point(line: Line, step: int, runs: Sequence[Metrics]) -> list[float | None]:
    """[step, value] or [step, value, low, high]. A single run's band is the line's own."""
    values = [value for metrics in runs if (value := line.read(metrics)) is not None]
    if not values:
        return [step, None]
    if len(values) > 1:
        return [step, *map(round_, (sum(values) / len(values), min(values), max(values)))]
    band = [reader(runs[0]) for reader in (line.low, line.high) if reader is not None] if len(runs) == 1 else []
    return [step, *map(round_, (values[0], *band))]


def _parts(spec: Spec, groups: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """Stacks: the parts of every step, mean over a group's runs; bars: their sums."""
    assert spec.parts is not None
    series, totals = [], dict[str, float]()
    for number, runs in enumerate(groups):
        steps: dict[int, dict[str, float]] = {}
        for step in sorted({step for run in runs for step in run.steps}):
            found = [parts for run in runs if step in run.steps and (parts := spec.parts(run.steps[step]))]
            if found:
                names = dict.fromkeys(name for parts in found for name in parts)
                steps[step] = {name: sum(p.get(name, 0.0) for p in found) / len(found) for name in names}
        if not steps:
            continue
        sums: dict[str, float] = {}
        for parts in steps.values():
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
                totals[name] = totals.get(name, 0.0) + value
        kept = thin(list(steps.items())) if spec.form == Form.STACK else []
        series.append(
            {"run": number, "sums": sums, "steps": [[s, {n: round_(v) for n, v in f.items()}] for s, f in kept]}
        )
    names_ = sorted(totals) if spec.form == Form.BARS else sorted(totals, key=lambda name: -totals[name])
    return {"series": series, "parts": names_}


def all_metrics(runs: Sequence[Run], limit: int) -> dict[str, list[list[list[float | None]]]]:
    """Every logged metric: key -> one list of at most `limit` [step, value] a run."""
    keys = sorted({key for run in runs for metrics in run.steps.values() for key in metrics})
    return {
        key: [thin([[step, round_(m[key])] for step, m in run.steps.items() if key in m], limit) for run in runs]
        for key in keys
    }


def thin(points: list[Any], limit: int = MAX_POINTS) -> list[Any]:
    """At most `limit` of them, at least 2; first and last included."""
    if len(points) <= limit:
        return points
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


def round_(value: float | None) -> float | None:
    """Five significant digits: more than a chart shows."""
    return None if value is None else float(f"{value:.5g}")
