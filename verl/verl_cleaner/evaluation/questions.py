"""The questions of a benchmark of programs, and which of them a dump's row answers."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_cleaner import stored
from verl_cleaner.dataset import reading
from verl_cleaner.evaluation.suites import Problem, read_suite, suite_file

Codes = dict[str, list[str]]
"""The programs by question, in the order of the samples; empty where a response holds none."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """name: of its module and suite. text: the column with a question's text. file: the usual name of the file that
    `write` makes. official: how the benchmark's own evaluation is called with it."""

    name: str
    text: str
    file: str
    write: Callable[[Path, Codes], None]
    official: str


@dataclass(slots=True)
class Questions:
    """A benchmark's questions. texts: as the file has them, by id."""

    problems: Mapping[str, Problem]
    texts: Mapping[str, str]
    _by_tests: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for name, problem in self.problems.items():
            self._by_tests[_plain(problem.row.ground_truth)].append(name)

    def of(self, entry: Mapping[str, Any], where: str) -> str | None:
        """The question of a dump's line; None where the line says that it is of another benchmark.

        Raises:
            ValueError: none fits, or several.
        """
        source = entry.get("data_source")
        if source is not None and source not in {problem.row.data_source for problem in self.problems.values()}:
            return None
        for key in ("question_id", "problem"):
            if key in entry:
                if str(entry[key]) not in self.problems:
                    raise ValueError(f"{where}: {key} {entry[key]!r} is no question of the benchmark")
                return str(entry[key])
        named = self._by_tests.get(_plain(entry["gts"]), []) if entry.get("gts") is not None else []
        found = named if len(named) == 1 else self._by_text(str(entry.get("input", "")), named or list(self.problems))
        if len(found) != 1:
            several = f"{len(found)} questions fit ({', '.join(found[:3])}, …)" if found else "no question fits"
            raise ValueError(
                f"{where}: {several}; expected a question_id, the question's tests in gts, or its text in input"
            )
        return found[0]

    def _by_text(self, text: str, names: Sequence[str]) -> list[str]:
        """Of those whose text is there, the longest: one question may begin like another."""
        there = [name for name in names if self.texts[name].strip() in text]
        longest = max((len(self.texts[name].strip()) for name in there), default=0)
        return [name for name in there if len(self.texts[name].strip()) == longest]


def read_questions(
    suite: str, benchmark: Benchmark, *, limit: int | None = None, sources: str | None = None
) -> Questions:
    """suite: a name or a file. sources: YAML of the user's own. Raises ValueError for an unusable file."""
    problems = {problem.id: problem for problem in read_suite(suite, sources=sources, limit=limit)}
    # A row that is no object, read_suite has refused.
    raws = (raw for raw in reading.rows(suite_file(suite)) if isinstance(raw, dict))
    return Questions(
        problems, {name: str(raw.get(benchmark.text, "")) for name, raw in zip(problems, raws, strict=False)}
    )


def _plain(ground_truth: Any) -> str:
    """Texts of equal values are equal."""
    if isinstance(ground_truth, str):
        try:
            ground_truth = stored.value(ground_truth)
        except ValueError:
            return str(ground_truth)
    return json.dumps(ground_truth, sort_keys=True, default=str)
