"""Prometheus metrics. A sample is counted under its full name, so that processes can add theirs up in Redis."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping

from code_judge.broker import Status
from code_judge.wire import RunResult

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""seconds"""
CELLS, SESSIONS_LOST = "code_judge_cells_total", "code_judge_sessions_lost_total"
_HELP = {
    "code_judge_verdicts_total": (
        "counter",
        "Programs answered, each test as one, by kind of ending or reason for none.",
    ),
    "code_judge_run_seconds": ("histogram", "How long programs ran."),
    "code_judge_wait_seconds": (
        "histogram",
        "From submission to result, less the time the program ran, or all its tests.",
    ),
    "code_judge_queued": ("gauge", "Jobs not yet started."),
    "code_judge_workers": ("gauge", "Live workers."),
    "code_judge_slots": ("gauge", "Programs that can run at a time."),
    "code_judge_slots_busy": ("gauge", "Programs running."),
    "code_judge_sessions_open": ("gauge", "Sessions open."),
    "code_judge_sessions_most": ("gauge", "Sessions that may be open."),
    CELLS: ("counter", "Cells of sessions that were answered."),
    SESSIONS_LOST: ("counter", "Sessions that callers have found lost."),
}
_KINDS = ("ok", "timeout", "memory", "output_limit", "nonzero_exit", "compile_error")


def samples(results: Iterable[RunResult], seconds: float) -> dict[str, float]:
    """What `results` add that came `seconds` after they were submitted."""
    found: defaultdict[str, float] = defaultdict(float)
    for result in results:
        for run in result.tests or (result,):
            # The names of exceptions are the users' to choose; as labels they would never end.
            verdict = run.kind if run.kind in _KINDS else "exception" if run.kind else str(run.reason)
            found[f'code_judge_verdicts_total{{verdict="{verdict}"}}'] += 1
            if run.kind:
                _observe(found, "code_judge_run_seconds", run.cost)
        _observe(found, "code_judge_wait_seconds", max(0.0, seconds - result.cost))
    return found


def render(status: Status, sessions: tuple[int, int]) -> str:
    """In Prometheus' text format. sessions: open, and that may be open."""
    gauges = {
        "code_judge_queued": status.queued,
        "code_judge_workers": len(status.workers),
        "code_judge_slots": sum(worker.slots for worker in status.workers),
        "code_judge_slots_busy": sum(worker.busy for worker in status.workers),
        "code_judge_sessions_open": sessions[0],
        "code_judge_sessions_most": sessions[1],
    }
    lines = []
    for name, (kind, text) in _HELP.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        if kind == "gauge":
            lines.append(f"{name} {gauges[name]}")
        elif kind == "counter":
            lines += [f"{full} {value:g}" for full, value in sorted(status.totals.items()) if full.startswith(name)]
        else:
            lines += _histogram(name, status.totals)
    return "\n".join(lines) + "\n"


def _observe(found: "defaultdict[str, float]", name: str, seconds: float) -> None:
    place = bisect_left(BUCKETS, seconds)
    found[f"{name}:{place}"] += 1
    found[f"{name}_sum"] += seconds


def _histogram(name: str, totals: Mapping[str, float]) -> list[str]:
    lines, below = [], 0.0
    for place, bound in enumerate((*map(str, BUCKETS), "+Inf")):
        below += totals.get(f"{name}:{place}", 0)
        lines.append(f'{name}_bucket{{le="{bound}"}} {below:g}')
    return [*lines, f"{name}_sum {totals.get(f'{name}_sum', 0):g}", f"{name}_count {below:g}"]
