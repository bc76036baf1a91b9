"""A cell in progress: its processes, one after the other where it resumes, and what came of them."""

import sys
import time
from contextlib import ExitStack
from pathlib import Path

from cleaner_lab.experiments.grid import ColdStart
from cleaner_lab.matrix.cells import Cell
from cleaner_lab.matrix.table import Outcome, Result, figures
from verl_cleaner.launch import RunFailed, Training, logger_environment
from verl_cleaner.records.metrics import read_steps

_REFUSED = " before the start:\n"
_RAY_LATE = "The current node timed out during startup"
"""Ray gives its own processes 30 s, which are few where many cells start at once."""


class Run:
    """A cell in progress: one process, or one after the other where it resumes."""

    def __init__(
        self, cell: Cell, result: Result, start: ColdStart, folder: Path, places: list[str], python: str
    ) -> None:
        self.cell, self.result, self.places = cell, result, places
        self._start, self._folder, self._python = start, folder, python
        self._begun = time.monotonic()
        self._steps: dict[int, dict[str, float]] = {}
        self._part, self._ray_was_late = 0, False
        self._start_part()

    def _start_part(self) -> None:
        logs = self._folder / f"part{self._part}"
        logs.mkdir(parents=True, exist_ok=True)
        self._metrics = logs / "metrics.jsonl"
        self._metrics.unlink(missing_ok=True)
        environment = logger_environment(logs)
        if self.cell.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.places)
        if self.cell.script:
            self._metrics = self._folder / "metrics.jsonl"
            own = {"OUTPUT_DIR": self._folder, "STEPS": self.cell.steps[-1], "PYTHON": self._python}
            environment |= {name: str(value) for name, value in own.items()}
        words = command(self.cell, self._start, self._folder, self._part, self._python)
        self._stack = ExitStack()
        self._training = self._stack.enter_context(Training(words, log=logs / "train.log", environment=environment))

    def close(self) -> None:
        self._stack.close()

    def ended(self, until: float) -> bool:
        """Whether the cell has ended, with `result` filled in, or is given up: after its own time, or at `until`."""
        taken = time.monotonic() - self._begun
        try:
            if not self._training.ended():
                if taken < self.cell.seconds and time.monotonic() < until:
                    return False
                raise RunFailed(f"no end after {taken:.0f} s (log: {self._training.log})")
            first = self._read()
            if self._part + 1 < len(self.cell.steps):
                self.close()
                self._part += 1
                self._start_part()
                return False
            if self._part and first != self.cell.steps[0] + 1:
                raise RunFailed(f"went on with step {first}, expected {self.cell.steps[0] + 1}")
            if max(self._steps, default=0) != self.cell.steps[-1]:
                raise RunFailed(
                    f"ended without an error at step {max(self._steps, default=0)} of {self.cell.steps[-1]}"
                )
            self.result.outcome = Outcome.RAN
        except RunFailed as error:
            self._read()
            text = str(error)
            if _RAY_LATE in text and not self._ray_was_late:
                self._ray_was_late = True
                self.close()
                self._start_part()
                return False
            self.result.outcome = Outcome.REFUSED if _REFUSED in text else Outcome.FAILED
            self.result.message = _problems(text) if _REFUSED in text else text
        self.result.figures, self.result.seconds = figures(self._steps), taken
        return True

    def _read(self) -> int | None:
        """The first training step of the present process."""
        found = read_steps(self._metrics) if self._metrics.exists() else {}
        for step, logged in found.items():
            self._steps.setdefault(step, {}).update(logged)
        return min((step for step, logged in found.items() if "timing_s/step" in logged), default=None)


def command(cell: Cell, start: ColdStart, folder: Path, part: int, python: str = sys.executable) -> list[str]:
    """What the cell's process of this number starts."""
    if cell.script:
        return ["bash", "-euc", cell.script]
    return [python, "-m", "verl_cleaner.main_ppo", *cell.arguments(start, folder, part)]


def _problems(text: str) -> str:
    """What the preflight found, without the lines around."""
    return " ".join(line.strip() for line in text.partition(_REFUSED)[2].splitlines() if line.startswith("  - "))
