"""Trajectories of a validation run and the rows they belong to.

VeRL dumps a validation (`trainer.validation_data_dir`) as JSON Lines, one a trajectory, with the rendered prompt, the
ground truth and what the reward function said, but not with the row. A trajectory is therefore matched by the text of
its prompt, which is in the words of the row's own source, and by its ground truth. Rows that share both are given the
groups of trajectories in turn.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_cleaner.dataset.schemas import Row


@dataclass(frozen=True, slots=True)
class Trajectory:
    """group: of the trajectories of one prompt in one run. acc: 1.0 for a solved attempt, else 0.0."""

    group: str
    prompt: str
    ground_truth: str
    acc: float
    score: float


def files(paths: Iterable[Path]) -> list[Path]:
    """The dumps that are meant by files and folders; a folder's in the order in which they were written.

    Raises:
        ValueError: a path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist; expected a validation dump or a folder of them")
        inside = path.rglob("*.jsonl") if path.is_dir() else [path]
        found += sorted(inside, key=lambda file: (file.stat().st_mtime_ns, file))
    return found


def read(path: Path) -> Iterator[Trajectory]:
    """Skips a last line that was cut off while it was written.

    Raises:
        ValueError: names file, row and key.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            try:
                values = json.loads(line)
            except ValueError as error:
                if not line.endswith("\n"):
                    return
                raise ValueError(f"{path}, row {number}: not JSON: {error}") from error
            yield _trajectory(values, f"{path}, row {number}")


def _trajectory(values: Any, where: str) -> Trajectory:
    missing = [
        key for key in ("input", "gts", "score", "acc", "uid") if not isinstance(values, dict) or key not in values
    ]
    if missing:
        raise ValueError(
            f"{where}: {', '.join(missing)} is missing; expected VeRL's dump of a validation whose rewards came from "
            "verl_cleaner.reward.router"
        )
    group = str(values["uid"]).rsplit("_", 2)[0]
    return Trajectory(group, values["input"], str(values["gts"]), float(values["acc"]), float(values["score"]))


@dataclass(frozen=True, slots=True)
class Question:
    """What is needed of a row to know its trajectories. prompt: the user's text; truth: a hash of the ground truth."""

    uid: str
    data_source: str
    prompt: str
    truth: bytes

    @classmethod
    def of(cls, row: Row) -> "Question":
        return cls(row.uid, row.data_source, row.prompt[-1]["content"], _hash(row.ground_truth))


class Matcher:
    """Finds the row of a trajectory.

    What surrounds the user's text in a rendered prompt is the same for nearly all rows of a run; it is learnt from the
    first ones, so that the others are a look-up.
    """

    def __init__(self, questions: Iterable[Question]) -> None:
        self._uids: dict[tuple[str, bytes], list[str]] = defaultdict(list)
        for question in questions:
            self._uids[question.prompt, question.truth].append(question.uid)
        # Longest first: a problem may be a part of another one.
        self._texts = dict.fromkeys(sorted({text for text, _ in self._uids}, key=len, reverse=True))
        self._frames: list[tuple[str, str]] = []
        self._groups: dict[str, str] = {}
        self._given: dict[tuple[str, bytes], int] = defaultdict(int)

    def uid(self, trajectory: Trajectory) -> str | None:
        """None where no row has this prompt and this ground truth."""
        if trajectory.group in self._groups:
            return self._groups[trajectory.group]
        text = self._text(trajectory.prompt)
        if text is None:
            return None
        key = text, _hash(trajectory.ground_truth)
        uids = self._uids.get(key)
        if uids is None:
            return None
        uid = uids[self._given[key] % len(uids)]
        self._given[key] += 1
        self._groups[trajectory.group] = uid
        return uid

    def _text(self, prompt: str) -> str | None:
        """The longest of the rows' texts in a rendered prompt."""
        for head, tail in self._frames:
            inner = prompt[len(head) : len(prompt) - len(tail)]
            if inner in self._texts and prompt == head + inner + tail:
                return inner
        text = next((text for text in self._texts if text in prompt), None)
        if text is not None:
            head, _, tail = prompt.partition(text)
            if (head, tail) not in self._frames:
                self._frames.insert(0, (head, tail))
                del self._frames[16:]
        return text


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
