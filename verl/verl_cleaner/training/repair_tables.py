"""A step's repairs in VeRL's loggers: tables and charts in wandb, text and histograms in TensorBoard.

TensorBoard also gets the layout of the panels, once a run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from verl_cleaner.report.dashboards import tensorboard_layout
from verl_cleaner.saar.record import Record

EXAMPLES = 20
"""Repairs a step that are logged with their text."""
_COLUMNS = (
    *("step", "uid", "rollout", "turn", "retry", "kinds"),
    *("error", "failed_call", "new_call", "similarity", "strategy", "gap"),
)
_MAX_TEXT = 2000


def log_layout(loggers: Mapping[str, Any]) -> None:
    """For TensorBoard's tab "Custom Scalars". loggers: `Tracking.logger` of VeRL."""
    if "tensorboard" in loggers:
        loggers["tensorboard"].writer.add_custom_scalars(tensorboard_layout())


def log_repairs(
    loggers: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], records: Sequence[Record], *, step: int
) -> None:
    """loggers: `Tracking.logger` of VeRL. rows: of `records.rollbacks`. records: of all trajectories of the step."""
    kinds = Counter(kind for r in records for attempt in r["attempts"] for kind in attempt["kinds"] if kind is not None)
    examples = [row for row in rows if row["result"] == "overwritten"][:EXAMPLES]
    if "wandb" in loggers:
        _to_wandb(loggers["wandb"], rows, kinds, examples, step)
    if "tensorboard" in loggers:
        _to_tensorboard(loggers["tensorboard"].writer, rows, kinds, examples, step)


def _to_wandb(
    wandb: Any, rows: Sequence[Mapping[str, Any]], kinds: Counter[str], examples: Sequence[Any], step: int
) -> None:
    """With the same step number as VeRL's scalars, which are logged after."""
    logged: dict[str, Any] = {}
    if examples:
        cells = [[_cell(row[name]) for name in _COLUMNS] for row in examples]
        logged["repairs/examples"] = wandb.Table(columns=list(_COLUMNS), data=cells)
    if kinds:
        counts = wandb.Table(columns=["kind", "calls"], data=[[str(kind), n] for kind, n in kinds.most_common()])
        logged["repairs/failure_kinds"] = wandb.plot.bar(counts, "kind", "calls", title="Failed calls by kind")
    if ratios := _ratios(rows):
        table = wandb.Table(columns=["similarity"], data=[[ratio] for ratio in ratios])
        logged["repairs/similarity"] = wandb.plot.histogram(
            table, "similarity", title="Similarity of failed and new call"
        )
    if logged:
        wandb.log(logged, step=step)


def _to_tensorboard(
    writer: Any, rows: Sequence[Mapping[str, Any]], kinds: Counter[str], examples: Sequence[Any], step: int
) -> None:
    if ratios := _ratios(rows):
        import numpy

        writer.add_histogram("repairs/similarity", numpy.array(ratios), step)
    if kinds:
        writer.add_text(
            "repairs/failure_kinds", _verbatim("\n".join(f"{n:6} {kind}" for kind, n in kinds.most_common())), step
        )
    if examples:
        writer.add_text("repairs/examples", _verbatim("\n\n".join(_example(row) for row in examples)), step)


def _example(row: Mapping[str, Any]) -> str:
    head = f"{row['uid']} rollout {row['rollout']} turn {row['turn']}: {_cell(row['kinds'])}, {row['similarity']}"
    parts = [("!", row["error"]), ("-", row["failed_call"]), ("+", row["new_call"])]
    return "\n".join([head, *(f"{sign} {line}" for sign, text in parts for line in _cell(text).splitlines())])


def _verbatim(text: str) -> str:
    """Indented by four blanks: tensorboard renders markdown, and shows such text unchanged."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _ratios(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["similarity"] for row in rows if row["similarity"] is not None]


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value[:_MAX_TEXT] if isinstance(value, str) else value
