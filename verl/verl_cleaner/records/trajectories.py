"""Every trajectory as a row of a table, beside VeRL's dump: `<rollout_data_dir>/trajectories/<step>.parquet`.

VeRL's dump has text and score. This one says how each tool call ended, and with `trainer.dump_tokens=True` what the
update saw of every token. `SCHEMA` documents the columns; `python -m verl_cleaner.report` reads them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl_cleaner.saar.metrics import Record

SCHEMA_VERSION = 1
SCHEMA: dict[str, tuple[str, str]] = {
    "schema_version": ("int64", "1"),
    "step": ("int64", "the trainer's step"),
    "uid": ("string", "the prompt's group in this step"),
    "rollout": ("int64", "index of the trajectory in its group"),
    "output": ("int64", "index of the output, for agent loops with several"),
    "acc": ("double", "as the reward function reports it; null where it does not"),
    "enabled": ("bool", "rollback is configured; null where the agent loop is not ours"),
    "eligible": ("bool", "the gate let this trajectory through"),
    "sampled_tokens": ("int64", "with retries"),
    "attempts": (
        "list<attempt>",
        "turn, kinds (null = ok) and seconds, one a call, for every execution of a turn's calls",
    ),
    "spans": ("list<list<int64>>", "overwritten tokens [start, end) of the response"),
    "prompt": ("string", "with special tokens; null without trainer.dump_tokens, as all that follows"),
    "tokens": ("list<string>", "the response; joined they are its text, special tokens included"),
    "mask": ("list<int8>", "1 = sampled and trained on"),
    "old_log_probs": ("list<float>", "the trainer's, before the update"),
    "rollout_log_probs": ("list<float>", "the rollout engine's; null unless rollout.calculate_log_probs"),
    "advantages": ("list<float>", "0 where not trained on"),
}
"""Column -> (Arrow type, meaning)."""

SCORE_COLUMNS = ("old_log_probs", "rollout_log_probs", "advantages")
TOKEN_COLUMNS = ("prompt", "tokens", "mask", *SCORE_COLUMNS)


def rows(
    trajectories: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    step: int,
    record_field: str,
    tokens: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """trajectories: (VeRL's key `{uid}_{rollout}_{output}`, extra fields). tokens: by key, TOKEN_COLUMNS."""
    table = []
    for key, fields in trajectories:
        uid, rollout, output = key.rsplit("_", 2)
        acc = (fields.get("reward_extra_info") or {}).get("acc")
        row: dict[str, Any] = dict.fromkeys(SCHEMA)
        row |= {"schema_version": SCHEMA_VERSION, "step": step, "uid": uid}
        row |= {"rollout": int(rollout), "output": int(output), "acc": None if acc is None else float(acc)}
        table.append(row | _of_record(fields.get(record_field)) | dict((tokens or {}).get(key, {})))
    return table


def _of_record(record: Record | None) -> dict[str, Any]:
    if record is None:
        return {}
    spans = {retry["turn"]: retry["span"] for retry in record["retries"] if retry["span"] is not None}
    return {
        "enabled": record["enabled"],
        "eligible": record["eligible"],
        "sampled_tokens": record["sampled_tokens"],
        "attempts": [{name: attempt[name] for name in ("turn", "kinds", "seconds")} for attempt in record["attempts"]],
        "spans": [list(span) for span in spans.values()],
    }


def write(folder: Path, table: Sequence[Mapping[str, Any]], *, name: str) -> None:
    """Write `name`.parquet; readers see all of it or nothing."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.parquet.partial"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table, schema=_arrow_schema()), partial, compression="zstd")
    os.replace(partial, folder / f"{name}.parquet")


def read(path: Path) -> list[dict[str, Any]]:
    """Raises ValueError, naming the file, for another table, and pyarrow's errors for a broken file."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    missing = sorted(set(SCHEMA) - set(table.column_names))
    versions = set(table.column("schema_version").to_pylist()) if not missing else set()
    if missing or versions - {SCHEMA_VERSION}:
        raise ValueError(
            f"{path} is no dump of trajectories of schema version {SCHEMA_VERSION}: got versions {sorted(versions)}, "
            f"missing columns {missing}"
        )
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def _arrow_schema() -> Any:
    import pyarrow as pa

    attempt = [("turn", pa.int64()), ("kinds", pa.list_(pa.string())), ("seconds", pa.list_(pa.float64()))]
    types = {
        "list<attempt>": pa.list_(pa.struct(attempt)),
        "list<list<int64>>": pa.list_(pa.list_(pa.int64())),
        "list<string>": pa.list_(pa.string()),
        "list<int8>": pa.list_(pa.int8()),
        "list<float>": pa.list_(pa.float32()),
    }
    return pa.schema([(name, types.get(kind) or kind) for name, (kind, _) in SCHEMA.items()])
