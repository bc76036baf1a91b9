"""One repaired turn of a step, as a few lines for a terminal."""

import difflib
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cleaner_lab.nano.progress import WIDTH
from verl_cleaner.records.rollbacks import read


def repair_lines(run: Path, step: int) -> list[str]:
    """Of the run in this folder, indented by two; empty where no first retry repaired a turn, or there is no record."""
    path = run / "rollouts" / "rollbacks" / f"{step}.parquet"
    row = first_repair(read(path)) if path.is_file() else None
    if row is None:
        return []
    kept = "its call is overwritten" if row["strategy"] == "tool_call_only" else "the turn is overwritten"
    title = f"A turn that was repaired in step {step}; {kept} (- failed, ! error, + trained on):"
    lines = textwrap.wrap(title, WIDTH, initial_indent="  ", subsequent_indent="  ")
    for text in _diff(row):
        # With all its spaces: it may be Python.
        lines += textwrap.wrap(f"      {text}", WIDTH, subsequent_indent=" " * 8, drop_whitespace=False)
    return lines


def first_repair(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A turn of a step's dump whose first retry ran: rather an exception than a call that did not parse, and of these
    the one whose repair changes least."""
    retried = Counter((row["uid"], row["rollout"], row["turn"]) for row in rows)
    repaired = [
        row for row in rows if row["result"] == "overwritten" and retried[row["uid"], row["rollout"], row["turn"]] == 1
    ]
    return min(repaired, key=lambda row: (not row["kinds"][0][:1].isupper(), -(row["similarity"] or 0)), default=None)


def _diff(row: dict[str, Any]) -> Iterator[str]:
    old, new = ((row["malformed"] or row["failed_call"]).splitlines(), row["new_call"].splitlines())
    changes = [line for line in difflib.ndiff(old, new) if line[0] != "?"]
    error = [f"! {line}" for line in row["error"].splitlines()]
    # The error stands below what it is about.
    last = max((number for number, line in enumerate(changes) if line[0] == "-"), default=-1) + 1
    yield from [*changes[:last], *error, *changes[last:]]
