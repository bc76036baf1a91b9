"""Metrics as VeRL's file logger writes them: `{"step": n, "data": {name: value}}`, one line a logged step."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WITH_ROLLBACK = "with_rollback/"
"""Before the names of a validation with rollback at test time (`trainer.validate_with_rollback`)."""


class MetricsFile:
    """The file, followed while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[tuple[int, dict[str, Any]]]:
        """(step, metrics) of the complete lines since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._offset:  # a new file
                self._offset = 0
            file.seek(self._offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        try:
            entries = [(entry["step"], entry["data"]) for entry in map(json.loads, complete.splitlines())]
        except ValueError:  # a new file, already longer than the old one: the offset is not the start of a line
            self._offset = 0
            return []
        self._offset += len(complete)
        return entries


def read_steps(path: Path) -> dict[int, dict[str, Any]]:
    """The whole file; a step that was logged twice, as a resumed run's is, is merged."""
    steps: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        steps.setdefault(entry["step"], {}).update(entry["data"])
    return steps


def held_out_accuracy(metrics: Mapping[str, float]) -> float | None:
    """Mean accuracy over the held-out sets, or mean reward where there is no accuracy; None without validation."""
    for name in ("acc", "reward"):
        pattern = re.compile(rf"val-core/.+/{name}/mean@\d+$")
        values = [value for key, value in metrics.items() if pattern.match(key)]
        if values:
            return sum(values) / len(values)
    return None


def second_validation(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Of the validation with rollback at test time, under the names that those of the bare policy have."""
    return {key.removeprefix(WITH_ROLLBACK): value for key, value in metrics.items() if key.startswith(WITH_ROLLBACK)}
