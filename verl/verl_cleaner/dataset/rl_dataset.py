"""VeRL's data set over files of any schema (`data.custom_cls`): each prompt in the words of the row's own source.

    data.prompt_sources     YAML laid over `sources.yaml`; null: ours alone
    data.prompt_tools       False: prompts without tool talk
    data.skip_broken_rows   True: rows that cannot be used are named and left out; False: they are an error

Rows go one after the other into a memory-mapped Arrow file, so that the tests of code tasks need no memory. Prompts
longer than data.max_prompt_length are left out where data.filter_overlong_prompts says so.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tqdm import tqdm
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_cleaner.dataset import reading
from verl_cleaner.dataset.lengths import prompt_lengths
from verl_cleaner.dataset.schemas import Row, read_rows
from verl_cleaner.reward.sources import load

logger = logging.getLogger(__name__)

_MESSAGE = pa.struct({"role": pa.string(), "content": pa.string()})
_SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(_MESSAGE),
        "ability": pa.string(),
        "reward_model": pa.struct({"ground_truth": pa.string(), "style": pa.string()}),
        # As JSON: every source has its own fields.
        "extra_info": pa.string(),
    }
)
_SHOWN = 5


class CleanerDataset(RLHFDataset):
    """`dataframe` is VeRL's name for the rows."""

    def _read_files_and_tokenize(self) -> None:
        sources = load(self.config.get("prompt_sources"))
        self.prompt_tools = bool(self.config.get("prompt_tools", True))
        rows = self._rows([Path(file).expanduser() for file in self.data_files], sources)
        self.dataframe = _memory_mapped(rows).with_transform(_decode)
        self.dataframe = self.maybe_filter_out_long_prompts(self._sample(self.dataframe))

    def _rows(self, files: list[Path], sources: Any) -> Iterator[Row]:
        """Raises ValueError with the first broken rows of a file, or where no row can be used."""
        index = used = 0
        for file in files:
            broken: list[str] = []
            progress = tqdm(
                read_rows(file, sources, tools=self.prompt_tools, first_index=index), file.name, mininterval=2
            )
            progress.total = reading.count(file)
            for number, row in enumerate(progress):
                index += 1
                if isinstance(row, Row):
                    used += 1
                    yield row
                else:
                    broken.append(f"{file}, row {number}: {row}")
            if broken:
                self._broken(file, broken)
        if index and not used:
            raise ValueError(f"no row of {', '.join(map(str, files))} can be used")

    def _broken(self, file: Path, rows: list[str]) -> None:
        """Raises ValueError unless data.skip_broken_rows."""
        more = f"\n… and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        named = "\n".join(rows[:_SHOWN]) + more
        listed = f"python -m verl_cleaner.dataset check {file} lists them"
        if not self.config.get("skip_broken_rows", False):
            raise ValueError(
                f"{len(rows)} rows cannot be used; {listed}, data.skip_broken_rows=True leaves them out:\n{named}"
            )
        logger.warning("%d rows cannot be used and are left out; %s:\n%s", len(rows), listed, named)

    def _sample(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        """data.{train,val}_max_samples of the rows; -1: all of them."""
        total = len(dataframe)
        if not 0 < self.max_samples < total:
            return dataframe
        if not self.shuffle:
            return dataframe.select(range(self.max_samples))
        return dataframe.select(np.random.default_rng(self.seed).choice(total, size=self.max_samples, replace=False))

    def maybe_filter_out_long_prompts(self, dataframe: datasets.Dataset = None) -> datasets.Dataset:
        if not self.filter_overlong_prompts:
            return dataframe
        lengths = prompt_lengths(
            self.tokenizer,
            dataframe.with_format(None)["prompt"],
            tools=self.tool_schemas if self.prompt_tools else None,
            exact_above=self.max_prompt_length,
            **self.apply_chat_template_kwargs,
        )
        kept = [index for index, length in enumerate(lengths) if length <= self.max_prompt_length]
        if not kept:
            raise ValueError(
                f"data.max_prompt_length={self.max_prompt_length} is shorter than every prompt of "
                f"{', '.join(map(str, self.data_files))}; the shortest has {min(lengths)} tokens"
            )
        if len(kept) < len(dataframe):
            logger.warning(
                "%d of %d prompts are longer than data.max_prompt_length=%d and left out",
                len(dataframe) - len(kept), len(dataframe), self.max_prompt_length,
            )  # fmt: skip
        return dataframe.select(kept)


def _memory_mapped(rows: Iterator[Row]) -> datasets.Dataset:
    descriptor, path = tempfile.mkstemp(suffix=".arrow")
    os.close(descriptor)
    try:
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
            for batch in _batches(rows):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=_SCHEMA))
        return datasets.Dataset.from_file(path)
    finally:
        # The mapping keeps what it needs.
        os.unlink(path)


def _batches(rows: Iterator[Row]) -> Iterator[list[dict[str, Any]]]:
    batch = []
    for row in rows:
        batch.append(row.as_verl() | {"extra_info": json.dumps(row.extra_info, default=str)})
        if len(batch) == reading.BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _decode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return (
        batch | {"extra_info": [json.loads(text) for text in batch["extra_info"]]} if "extra_info" in batch else batch
    )
