"""VeRL's file logger keeps its earlier lines when a run is resumed.

VeRL opens `VERL_FILE_LOGGER_PATH` for writing, which empties it, also where a run goes on from a checkpoint. So the
complete lines of steps up to the checkpoint are read before the logger opens the file, and written back after.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EarlierMetrics:
    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def read(self, *, last_step: int) -> None:
        """Before VeRL opens the file. last_step: of the checkpoint that the run goes on from; 0 keeps nothing."""
        path = Path(os.environ.get("VERL_FILE_LOGGER_PATH", ""))
        if last_step > 0 and path.is_file():
            complete = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            self._lines = [line for line in complete if json.loads(line)["step"] <= last_step]

    def write(self, loggers: Mapping[str, Any]) -> None:
        """After VeRL has opened the file, before the first new line. Idempotent. loggers: `Tracking.logger`."""
        if self._lines and "file" in loggers:
            loggers["file"].fp.write(b"".join(self._lines))
        self._lines = []
