"""The results of a grid as one tidy table: a row is one metric of one run at one step.

method, seed, step (0: before any update), metric (of `METRICS`), value

What holds for all rows is JSON in the file's metadata: the grid, the cold start's digest and size, tasks, overrides of
each method, versions.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleaner_lab.experiments.learning_curves import COLUMNS, METADATA
from cleaner_lab.nano.curves import ONLY_HELD_OUT, family_accuracies, held_out_accuracy

SCHEMA = pa.schema(zip(COLUMNS, (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.float64()), strict=True))

METRICS = {
    "train/accuracy": "critic/score/acc",
    "train/failures_sampled": "tool_calls/sampled_failures_per_trajectory",
    "train/failures_left": "tool_calls/failures_per_trajectory",
    "train/first_attempt_success": "tool_calls/first_attempt_success_rate",
    "train/recovery_rate": "rollback/global_recovery_rate",
    "train/overwritten_share": "tokens/overwritten_share",
    "train/gap": "rollback/gap/mean",
    "train/zero_variance_groups": "grpo/zero_variance_groups",
    "train/entropy": "actor/entropy",
    "train/kl": "actor/ppo_kl",
    "train/grad_norm": "actor/grad_norm",
    "train/response_length": "response_length/mean",
    "train/tokens_generated": "tokens/generated",
    "train/tokens_discarded": "tokens/discarded",
    "held_out/failures": "val-aux/tool_calls/failures_per_trajectory",
    "held_out/first_attempt_success": "val-aux/tool_calls/first_attempt_success_rate",
}
"""Ours -> as logged. Beside these: train/seconds, and the accuracies of held_out/ and held_out_rollback/."""


def rows(
    method: str, seed: int, steps: Mapping[int, Mapping[str, Any]], with_rollback: Mapping[str, Any] | None
) -> Iterator[tuple[Any, ...]]:
    """steps: metrics as logged, by step. with_rollback: those of the last policy with rollback at test time."""
    for step, logged in sorted(steps.items()):
        for metric, value in of_step(logged).items():
            yield method, seed, step, metric, value
    if with_rollback:
        for metric, value in _accuracies(with_rollback, "held_out_rollback").items():
            yield method, seed, max(steps), metric, value


def of_step(logged: Mapping[str, Any]) -> dict[str, float]:
    found = {name: float(logged[key]) for name, key in METRICS.items() if logged.get(key) is not None}
    if not logged.get("rollback/global_triggered"):
        # Of no failing turn none was recovered: logged as 0.
        found.pop("train/recovery_rate", None)
    if "timing_s/step" in logged:
        found["train/seconds"] = float(logged["timing_s/step"])
    return found | _accuracies(logged, "held_out")


def _accuracies(logged: Mapping[str, Any], prefix: str) -> dict[str, float]:
    found = {}
    if (accuracy := held_out_accuracy(logged)) is not None:
        found[f"{prefix}/accuracy"] = accuracy
    families = family_accuracies(logged)
    others = {f"{prefix}/{name}_accuracy": families[key] for key, name in ONLY_HELD_OUT.items() if key in families}
    return found | others


def write(path: Path, observations: Sequence[tuple[Any, ...]], metadata: Mapping[str, Any]) -> None:
    columns = list(zip(*observations, strict=True)) or [()] * len(SCHEMA)
    table = pa.table([pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
    table = table.replace_schema_metadata({METADATA: json.dumps(metadata).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
