"""What came of the cells: one line of JSON a cell, and the same as a Markdown table.

OUT/results.jsonl   everything that is known, figures with all digits
OUT/table.md        the table for docs/recipes.md
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from cleaner_lab.experiments.cells import NONE, percent
from verl_cleaner.report.tables import markdown_table


class Outcome(StrEnum):
    RAN = "ran"
    REFUSED = "refused"
    """By the preflight, before anything started."""
    FAILED = "failed"
    NOT_HERE = "not here"
    """The host lacks what the cell needs: a GPU, a package."""
    NOT_BEGUN = "not begun"
    """The time was over, or the matrix was stopped."""


@dataclass(slots=True)
class Result:
    """facts: the set-up (`cells.facts`). message: why it did not run. figures: of the steps (`figures`)."""

    cell: str
    fingerprint: str
    facts: dict[str, Any]
    outcome: Outcome
    message: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def figures(steps: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """steps: metrics as logged, by step. Without those that were not logged."""
    trained = {step: logged for step, logged in sorted(steps.items()) if "timing_s/step" in logged}
    if not trained:
        return {"steps": 0}
    found: dict[str, float] = {"steps": len(trained)}
    last = list(trained.values())[-1]
    for name, key in (
        ("accuracy", "critic/score/acc"),
        ("failed_calls", "tool_calls/sampled_failures_per_trajectory"),
        ("repaired", "rollback/global_recovery_rate"),
    ):
        if key in last:
            found[name] = last[key]
    for name, key, of_all in (
        ("leaves", "leaves/count", sum),
        ("max_probability_difference", "training/rollout_probs_diff_max", max),
        ("gpu_gb", "actor/perf/max_memory_reserved_gb", max),
    ):
        if values := [logged[key] for logged in trained.values() if key in logged]:
            found[name] = of_all(values)
    # The first one builds caches and compiles.
    timed = [logged["timing_s/step"] for logged in trained.values()][1:] or [last["timing_s/step"]]
    return found | {"seconds_per_step": sum(timed) / len(timed)}


def write(out: Path, results: Sequence[Result]) -> None:
    (out / "results.jsonl").write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))
    (out / "table.md").write_text(table(results) + "\n")


def read(out: Path) -> dict[str, Result]:
    """By cell; empty where there are none."""
    path = out / "results.jsonl"
    found = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {line["cell"]: Result(**line | {"outcome": Outcome(line["outcome"])}) for line in found}


_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", percent),
    "failed calls": ("failed_calls", "{:.2f}".format),
    "repaired": ("repaired", percent),
    "s/step": ("seconds_per_step", "{:.1f}".format),
    "max &#124;Δp&#124;": ("max_probability_difference", "{:.1e}".format),
    "trainer, GB": ("gpu_gb", "{:.1f}".format),
}


def table(results: Sequence[Result]) -> str:
    """Without the cells that are not here, which a line under the table names."""
    rows = [["cell", "set-up", "outcome", *_COLUMNS]]
    for result in results:
        if result.outcome is not Outcome.NOT_HERE:
            given = result.figures if result.outcome is Outcome.RAN else {}
            values = [show(given[key]) if key in given else NONE for key, show in _COLUMNS.values()]
            rows.append([result.cell, _set_up(result), _outcome(result), *values])
    absent: dict[str, list[str]] = {}
    for result in results:
        if result.outcome is Outcome.NOT_HERE:
            absent.setdefault(result.message, []).append(result.cell)
    lines = [f"Not here, {why}: {', '.join(cells)}." for why, cells in absent.items()]
    return "\n\n".join([markdown_table(rows), *lines])


def _set_up(result: Result) -> str:
    facts = result.facts
    if "precision" not in facts:
        return f"`{facts['trainer']}`"
    several = max(int(facts["processes"]), int(facts["gpus"]))
    parts = [
        facts["trainer"],
        facts["precision"],
        facts["estimator"] if facts["estimator"] != "grpo" else "",
        facts["mode"].removeprefix("cleaner_") if facts["mode"] != "cleaner" else "",
        f"LoRA {facts['lora']}" if facts["lora"] else "",
        f"sequence parallel {facts['sequence_parallel']}" if facts["sequence_parallel"] > 1 else "",
        "rescore" if facts["rescore"] else "",
        "leaves" if facts["leaves"] else "",
        "resume" if facts["resume"] else "",
        f"{several} {'GPUs' if facts['gpus'] else 'processes'}" if several > 1 else "",
    ]
    return ", ".join(part for part in parts if part)


def _outcome(result: Result) -> str:
    if result.outcome is Outcome.RAN:
        return f"{int(result.figures['steps'])} steps"
    text = " ".join(result.message.split()).replace("|", "\\|")
    return f"**{result.outcome}** {text[:_LONGEST]}{'…' if len(text) > _LONGEST else ''}".strip()


_LONGEST = 160
