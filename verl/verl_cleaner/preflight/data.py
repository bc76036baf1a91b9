"""Checks of the data files of a run.

VeRL's dataset class reads .parquet, .json and .jsonl files; those are checked. The files of a dataset class of the user
are not checked, and neither are files with a scheme (hdfs://, s3://), which VeRL fetches.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, ListConfig

from verl_cleaner.preflight.finding import Finding, error
from verl_cleaner.preflight.names import nearest
from verl_cleaner.preflight.reward import needed_columns

_OUR_CLASS = "pkg://verl_cleaner.dataset.rl_dataset"
_KEYS = ("train_files", "val_files")


def files(config: DictConfig) -> Iterator[Finding]:
    if _custom(config):
        return
    for key in _KEYS:
        if config.data[key] is None:
            yield error(f"data.{key} is null, expected a parquet file")
        for file in _given(config, key):
            yield from _readable(f"data.{key}", file)


def _readable(key: str, file: str) -> Iterator[Finding]:
    path = Path(file).expanduser()
    if not path.is_file():
        yield error(f"{key}={file}: the file does not exist; expected a .parquet, .json or .jsonl file")
    elif path.suffix not in (".parquet", ".json", ".jsonl"):
        yield error(f"{key}={file}: expected a .parquet, .json or .jsonl file")
    elif path.suffix == ".parquet":
        try:
            rows = pq.read_metadata(path).num_rows
        except Exception as failure:
            yield error(f"{key}={file} is not a readable parquet file: {failure}")
        else:
            if rows == 0:
                yield error(f"{key}={file} has no rows")


def columns(config: DictConfig) -> Iterator[Finding]:
    """For our dataset class: the columns of a known schema. For VeRL's: the prompt, and what the reward reads."""
    if config.data.custom_cls.path == _OUR_CLASS:
        yield from _schemas(config)
    elif not _custom(config):
        needed = [config.data.prompt_key, *needed_columns(config)]
        for key, file, schema in _schemas_of(config):
            for column in needed:
                if not _has_column(schema, column):
                    near = nearest(column.split(".")[0], schema.names)
                    yield error(
                        f"{key}={file}: the column {column} is missing; found {', '.join(schema.names)}"
                        + (f" (is it {near}?)" if near else "")
                    )


def rows(config: DictConfig) -> Iterator[Finding]:
    """Checks that the training files have at least a batch of rows. Not checked where a file cannot be counted, or a
    dataset class of the user may add rows."""
    given = list(_given(config, "train_files"))
    counts = [_count(config, file) for file in given]
    batch = config.data.train_batch_size
    if given and None not in counts and 0 < sum(map(int, counts)) < batch:  # type: ignore[arg-type]
        yield error(
            f"data.train_files holds {sum(counts)} rows, fewer than data.train_batch_size={batch}; "  # type: ignore[arg-type]
            "lower the batch size"
        )


def agent_loops(config: DictConfig) -> set[str] | None:
    """Agent loops that the rows name in the column agent_name, else the default. None where it is not known."""
    default = str(config.actor_rollout_ref.rollout.agent.default_agent_loop)
    if _custom(config) and config.data.custom_cls.path != _OUR_CLASS:
        return None
    names: set[str] = set()
    for _, file, schema in _schemas_of(config):
        if "agent_name" in schema.names:
            names |= {name or default for name in pq.read_table(file, columns=["agent_name"])[0].unique().to_pylist()}
        else:
            names.add(default)
    return names or {default}


def _custom(config: DictConfig) -> bool:
    return config.data.custom_cls.path is not None


def _given(config: DictConfig, key: str) -> Iterator[str]:
    """The paths that are on this host's disks."""
    found = config.data[key]
    for file in found if isinstance(found, (list, ListConfig)) else [found]:
        if file is not None and "://" not in str(file):
            yield str(file)


def _schemas_of(config: DictConfig) -> Iterator[tuple[str, Path, Any]]:
    """(key, path, schema) of the parquet files that can be read."""
    for key in _KEYS:
        for file in _given(config, key):
            path = Path(file).expanduser()
            if path.suffix == ".parquet" and path.is_file():
                try:
                    schema = pq.read_schema(path)
                except Exception:  # `files` reports it
                    continue
                yield f"data.{key}", path, schema


def _schemas(config: DictConfig) -> Iterator[Finding]:
    from verl_cleaner.dataset.schemas import check_sources
    from verl_cleaner.reward.sources import load

    for key in _KEYS:
        for file in _given(config, key):
            try:
                sources = load(config.data.get("prompt_sources"))
                skip = bool(config.data.get("skip_broken_rows"))
                check_sources(Path(file).expanduser(), sources, skip_broken=skip)
            except ValueError as problem:
                yield error(f"data.{key}: {problem}")


def _count(config: DictConfig, file: str) -> int | None:
    from verl_cleaner.dataset import reading

    path = Path(file).expanduser()
    try:
        if config.data.custom_cls.path == _OUR_CLASS:
            return reading.count(path)
        if _custom(config) or path.suffix != ".parquet":
            return None
        return int(pq.read_metadata(path).num_rows)
    except Exception:  # `files` or `columns` reports it
        return None


def _has_column(schema: Any, column: str) -> bool:
    """Whether the schema has the column; `a.b` is the field b of the struct column a."""
    name, _, rest = column.partition(".")
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return not rest or (pa.types.is_struct(kind) and kind.get_field_index(rest) >= 0)
