"""Which metrics make which chart. A chart without data in any run is left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from verl_cleaner.records.metrics import held_out_accuracy
from verl_cleaner.report.run import Run

Metrics = Mapping[str, float]
MAX_POINTS = 400


class Form(StrEnum):
    LINES = "lines"
    STACK = "stack"
    BARS = "bars"


@dataclass(frozen=True, slots=True)
class Line:
    """read: the value of a step, None where it has none. dash: drawn dashed, as the second line of a run."""

    label: str
    read: Callable[[Metrics], float | None]
    dash: bool = False
    low: Callable[[Metrics], float | None] | None = None
    high: Callable[[Metrics], float | None] | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """unit: "%", "s", "tokens", "nats" or nothing. parts: of stacks and bars, the metrics of a step by name."""

    title: str
    note: str
    unit: str = ""
    form: Form = Form.LINES
    lines: tuple[Line, ...] = ()
    parts: Callable[[Metrics], dict[str, float]] | None = None
    section: str = "Learning"


def _key(name: str) -> Callable[[Metrics], float | None]:
    return lambda metrics: metrics.get(name)


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
    Spec("Held-out accuracy", "Mean over the held-out sets.", "%", lines=(Line("", held_out_accuracy),)),
    Spec("Training accuracy", "Share of the step's trajectories that are right.", "%",
         lines=(Line("", _key("critic/score/acc")),)),
    Spec("Reward", "Mean over the step's trajectories.", lines=(Line("", _key("critic/score/mean")),)),
    Spec("Tool failures a trajectory", "Solid: left in what is trained on. Dashed: as sampled, before repairs.",
         section="Tools and repairs",
         lines=(Line("left", _key("tool_calls/failures_per_trajectory")),
                Line("sampled", _key("tool_calls/sampled_failures_per_trajectory"), dash=True))),
    Spec("First attempts that succeed", "What the policy can do without help.", "%", section="Tools and repairs",
         lines=(Line("", _key("tool_calls/first_attempt_success_rate")),)),
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
    Spec("Tokens", "Solid: trained on. Dashed: sampled and thrown away.", "tokens", section="Cost",
         lines=(Line("kept", _key("tokens/kept")), Line("discarded", _key("tokens/discarded"), dash=True))),
    Spec("Response length", "Mean over the step's trajectories.", "tokens", section="Cost",
         lines=(Line("", _key("response_length/mean")),)),
    Spec("Time of a step, by phase", "Without validation and checkpoints.", "s", form=Form.STACK, section="Cost",
         parts=_below("timing_s/", leave_out=_PARTS_OF_STEP)),
    Spec("Tool latency", "Solid: median. Dashed: 95th percentile.", "s", section="Cost",
         lines=(Line("p50", _key("tool_calls/latency_s/p50")),
                Line("p95", _key("tool_calls/latency_s/p95"), dash=True))),
    Spec("Entropy", "Of the policy, in nats a token.", section="Stability", lines=(Line("", _key("actor/entropy")),)),
    Spec("Gradient norm", "", section="Stability", lines=(Line("", _key("actor/grad_norm")),)),
    Spec("KL of the update", "Solid: overwritten tokens. Dashed: the others.", section="Stability",
         lines=(Line("overwritten", _key("actor/overwritten_kl")),
                Line("sampled", _key("actor/sampled_kl"), dash=True))),
)  # fmt: skip


def chart_data(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """As the page's script draws them."""
    made = [(spec, _lines(spec, runs) if spec.form == Form.LINES else _parts(spec, runs)) for spec in SPECS]
    return [
        {"title": s.title, "note": s.note, "unit": s.unit, "form": str(s.form), "section": s.section} | data
        for s, data in made
        if data["series"]
    ]


def _lines(spec: Spec, runs: Sequence[Run]) -> dict[str, Any]:
    series = []
    for number, run in enumerate(runs):
        for line in spec.lines:
            points = [_point(line, step, metrics) for step, metrics in run.steps.items()]
            points = thin([point for point in points if point[1] is not None])
            if points:
                series.append({"run": number, "label": line.label, "dash": line.dash, "points": points})
    return {"series": series}


def _point(line: Line, step: int, metrics: Metrics) -> list[float | None]:
    readers = [line.read, *(reader for reader in (line.low, line.high) if reader is not None)]
    return [step, *(round_(reader(metrics)) for reader in readers)]


def _parts(spec: Spec, runs: Sequence[Run]) -> dict[str, Any]:
    """Stacks: the parts of every step; bars: their sums."""
    assert spec.parts is not None
    series, totals = [], dict[str, float]()
    for number, run in enumerate(runs):
        steps = [(step, found) for step, metrics in run.steps.items() if (found := spec.parts(metrics))]
        if not steps:
            continue
        sums: dict[str, float] = {}
        for _, found in steps:
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
                totals[name] = totals.get(name, 0.0) + value
        kept = thin(steps) if spec.form == Form.STACK else []
        series.append(
            {"run": number, "sums": sums, "steps": [[s, {n: round_(v) for n, v in f.items()}] for s, f in kept]}
        )
    names = sorted(totals) if spec.form == Form.BARS else sorted(totals, key=lambda name: -totals[name])
    return {"series": series, "parts": names}


_GLANCE = (
    ("held-out accuracy", "%", held_out_accuracy),
    ("training accuracy", "%", _key("critic/score/acc")),
    ("failures left a trajectory", "", _key("tool_calls/failures_per_trajectory")),
    ("first attempts that succeed", "%", _key("tool_calls/first_attempt_success_rate")),
    ("recovery rate", "%", _key("rollback/global_recovery_rate")),
    ("seconds a step", "s", _key("timing_s/step")),
)


def glance(runs: Sequence[Run]) -> dict[str, Any]:
    """First and last value of what is asked for first; one row a run."""
    rows = []
    for run in runs:
        columns = [[v for m in run.steps.values() if (v := read(m)) is not None] for _, _, read in _GLANCE]
        rows.append([[round_(values[0]), round_(values[-1])] if values else None for values in columns])
    return {"heads": [[title, unit] for title, unit, _ in _GLANCE], "rows": rows}


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
