"""A training run as a child process: start it, follow its metrics file step by step, end it with all it started.

FOLDER/train.log      everything VeRL, Ray and the workers print
FOLDER/metrics.jsonl  {"step": n, "data": {name: value}} per logged step, written by VeRL's file logger
FOLDER/tensorboard/   the same for tensorboard
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from verl_cleaner.records.metrics import MetricsFile

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 20
_ORPHANS_SECONDS = 5
_GENERATIONS = 5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37

_RAY_PREFIX = re.compile(r"(\x1b\[\d+m)?\([^)]* pid=\d+")
"""What Ray puts before a worker's line."""

_running: set[int] = set()
"""Pids of the trainings that this process has entered and not left."""


class RunFailed(Exception):
    """The training process ended with an error; the message is the last error in its log."""


class Training:
    """A process that trains. Use as a context manager: leaving it ends the process with everything it started.

    Args:
        command: what to start. log: file for all that it prints. environment: in addition to this process's.
    """

    _was_subreaper = False
    """Before the first of those that run."""

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        self.command = list(command)
        self.log = log
        self.environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._others: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # What the training leaves behind when it is killed becomes our child.
        if not _running:
            Training._was_subreaper = _subreaper()
        _set_subreaper(True)
        self._others = set(psutil.Process().children())
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                # This process handles Ctrl-C in the terminal.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        _running.add(self._process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if process.poll() is not None:
                break
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
        _running.discard(process.pid)
        self._end_orphans()
        # Orphans of other processes would stay as zombies: nobody here waits for them.
        if not _running:
            _set_subreaper(Training._was_subreaper)

    @property
    def pid(self) -> int:
        assert self._process is not None, "enter the run first"
        return self._process.pid

    def ended(self) -> bool:
        """Raises RunFailed if it ended with an error."""
        assert self._process is not None, "enter the run first"
        status = self._process.poll()
        if status:
            raise RunFailed(f"training ended with exit status {status}: {last_error(self.log)} (all of it: {self.log})")
        return status is not None

    def _end_orphans(self) -> None:
        """Ray's daemons end after their driver, but one that waits for a dead head node may take a minute."""
        psutil.wait_procs(self._orphans(), _ORPHANS_SECONDS)
        # Children of killed processes become children of this one.
        for _ in range(_GENERATIONS):
            orphans = self._orphans()
            for orphan in orphans:
                with contextlib.suppress(psutil.NoSuchProcess):
                    orphan.kill()
            psutil.wait_procs(orphans, _GRACE_SECONDS)

    def _orphans(self) -> list[psutil.Process]:
        children = psutil.Process().children()
        return [child for child in children if child not in self._others and child.pid not in _running]


class Run(Training):
    """One run, followed step by step.

    Args:
        folder: for log and metrics. overrides: Hydra arguments of `verl_cleaner.main_ppo`.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder = folder
        self.metrics_file = folder / "metrics.jsonl"
        super().__init__(
            [sys.executable, "-m", "verl_cleaner.main_ppo", *overrides],
            log=folder / "train.log",
            environment=logger_environment(folder),
        )

    def __enter__(self) -> Self:
        self.metrics_file.unlink(missing_ok=True)
        return super().__enter__()

    def steps(self) -> Iterator[tuple[int, dict[str, Any]] | None]:
        """Yield (step, metrics) as they are logged, and None a few times a second while there is nothing new.

        Raises:
            RunFailed: the training ended with an error.
        """
        metrics = MetricsFile(self.metrics_file)
        failed: RunFailed | None = None
        ended = False
        while not ended:
            try:
                ended = self.ended()
            except RunFailed as error:
                failed, ended = error, True
            entries = metrics.new()
            yield from entries
            if not entries and not ended:
                yield None
                time.sleep(_POLL_SECONDS)
        if failed:
            raise failed


def logger_environment(folder: Path) -> dict[str, str]:
    """Where VeRL's loggers write a run's metrics."""
    return {
        "VERL_FILE_LOGGER_PATH": str((folder / "metrics.jsonl").resolve()),
        "TENSORBOARD_DIR": str((folder / "tensorboard").resolve()),
    }


def _subreaper() -> bool:
    """Whether this process becomes the parent of its descendants' orphans."""
    found = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found))
    return bool(found.value)


def _set_subreaper(on: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def _end_with_parent() -> None:
    """On Linux: SIGTERM when the process that started this one is gone, however it went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def last_error(log: Path) -> str:
    """What most likely says why: all that the preflight found, or the last exception, the trainer's before a worker's,
    whose lines Ray may bring later."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    of_a_worker = None
    for number in reversed(range(len(lines))):
        text = lines[number].strip()
        name = text.partition(":")[0].replace(")", ".").rsplit(".", 1)[-1].strip()
        if text.startswith("error:"):
            return "\n".join([text.removeprefix("error:").strip(), *lines[number + 1 :]])
        if name.isidentifier() and name.endswith(("Error", "Exception", "Interrupt")) and ":" in text:
            if not _RAY_PREFIX.match(text):
                return text
            of_a_worker = of_a_worker or text
    return of_a_worker or (lines[-1].strip() if lines else "nothing was logged")
