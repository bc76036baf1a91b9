"""Every retry as a row of a table, beside VeRL's rollout dump: `<rollout_data_dir>/rollbacks/<step>.parquet`.

`SCHEMA` documents the columns. `python -m verl_cleaner.replay FILE` shows them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl_cleaner.records import parquet
from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.record import Record

SCHEMA_VERSION = 1
SCHEMA: parquet.Schema = {
    "schema_version": ("int64", "1"),
    "step": ("int64", "the trainer's step"),
    "uid": ("string", "the prompt's group in this step"),
    "rollout": ("int64", "index of the trajectory in its group"),
    "turn": ("int64", "assistant turn of the trajectory, from 1"),
    "retry": ("int64", "retry of that turn, from 1"),
    "kinds": ("list<string>", "why the turn failed, one kind a failed call"),
    "result": ("string", "overwritten, kept, voided, no_call, no_room or implausible"),
    "strategy": ("string", "tool_call_only or full_turn; null unless it was overwritten"),
    "similarity": ("double", "of old and new call, in [0, 1]; null where they were not compared"),
    "similarity_on": ("string", "rollback_similarity_on"),
    "threshold": ("double", "rollback_similarity_threshold"),
    "failed_call": ("string", "the turn's arguments as the tools saw them; what can be read in malformed calls"),
    "malformed": ("string", "malformed calls of the failed turn as written; empty where there are none"),
    "error": ("string", "the tools' responses to the failed calls"),
    "new_call": ("string", "as failed_call, of the retry"),
    "generated": ("int64", "tokens of the retry"),
    "discarded": ("int64", "sampled tokens of failed turn and retry that are not trained on"),
    "seconds": ("double", "what the retry took to generate"),
    "span_start": ("int64", "first overwritten token of the response, as of this retry; null where there is none"),
    "span_end": ("int64", "behind the last one; null as span_start"),
    "gap": ("double", "log-prob of the span in the clean context minus as sampled, in nats; null unless rescored"),
}


def rows(records: Iterable[tuple[str, Record]], *, step: int, config: RollbackConfig) -> list[dict[str, Any]]:
    """records: by VeRL's key of the trajectory, `{uid}_{rollout}_{output}`."""
    table = []
    for key, record in records:
        uid, rollout, _ = key.rsplit("_", 2)
        counts: dict[int, int] = {}
        for retry in record["retries"]:
            counts[retry["turn"]] = counts.get(retry["turn"], 0) + 1
            start, end = retry["span"] or (None, None)
            table.append(
                {
                    "schema_version": SCHEMA_VERSION,
                    "step": step,
                    "uid": uid,
                    "rollout": int(rollout),
                    "retry": counts[retry["turn"]],
                    "similarity_on": str(config.rollback_similarity_on),
                    "threshold": float(config.rollback_similarity_threshold),
                    "span_start": start,
                    "span_end": end,
                    **{name: parquet.plain(retry[name]) for name in SCHEMA if name in retry},
                }
            )
    return [{name: row[name] for name in SCHEMA} for row in table]


def write(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    parquet.write(path, table, SCHEMA)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a dump; a file of another suffix holds the same rows as JSON lines.

    Raises:
        ValueError: names the file and what it lacks.
    """
    if path.suffix == ".parquet":
        _, table = parquet.read(path)
    else:
        table = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    for number, row in enumerate(table, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number} is no JSON object but {type(row).__name__}")
        if row.get("schema_version") != SCHEMA_VERSION or set(SCHEMA) - set(row):
            raise ValueError(
                f"{path} is no dump of rollbacks of schema version {SCHEMA_VERSION}: got version "
                f"{row.get('schema_version')}, missing columns {sorted(set(SCHEMA) - set(row))}"
            )
        for name, (kind, meaning) in SCHEMA.items():
            if not (_is(row[name], kind) or (row[name] is None and "null" in meaning)):
                raise ValueError(f"{path}: row {number} holds {name}={row[name]!r:.100}, expected {kind}: {meaning}")
    return table


def _is(value: Any, kind: str) -> bool:
    if kind == "list<string>":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    classes: dict[str, tuple[type, ...]] = {"int64": (int,), "double": (int, float), "string": (str,)}
    return isinstance(value, classes[kind])
