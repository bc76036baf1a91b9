"""A training run in a process of its own: started, followed step by step through its metrics file, ended.

FOLDER/train.log      everything VeRL, Ray and the workers print
FOLDER/metrics.jsonl  {"step": n, "data": {name: value}} per logged step, written by VeRL's file logger
FOLDER/tensorboard/   the same for tensorboard
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 20
_ORPHANS_SECONDS = 5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_RAY_PREFIX = re.compile(r"(\x1b\[\d+m)?\([^)]* pid=\d+")
"""What Ray puts before a worker's line."""


class RunFailed(Exception):
    """The training process ended with an error; the message is its last word."""


class Run:
    """Use as a context manager: leaving it ends the training with everything it started.

    Args:
        folder: for log and metrics. overrides: Hydra arguments of `verl_cleaner.main_ppo`.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder = folder
        self.log = folder / "train.log"
        self.metrics_file = folder / "metrics.jsonl"
        self.command = [sys.executable, "-m", "verl_cleaner.main_ppo", *overrides]
        self._process: subprocess.Popen[bytes] | None = None
        self._others: set[psutil.Process] = set()

    def __enter__(self) -> "Run":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics_file.unlink(missing_ok=True)
        # What the training leaves behind when it is killed becomes our child.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._others = set(psutil.Process().children())
        environment = os.environ | {
            "VERL_FILE_LOGGER_PATH": str(self.metrics_file.resolve()),
            "TENSORBOARD_DIR": str((self.folder / "tensorboard").resolve()),
            "PYTHONUNBUFFERED": "1",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C in the terminal is ours to handle.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
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
        self._end_orphans()

    def _end_orphans(self) -> None:
        """Ray's daemons follow their driver, but one that waits for a dead head may take a minute."""
        orphans = [child for child in psutil.Process().children() if child not in self._others]
        psutil.wait_procs(orphans, _ORPHANS_SECONDS)
        while orphans := [child for child in psutil.Process().children() if child not in self._others]:
            for orphan in orphans:
                with contextlib.suppress(psutil.NoSuchProcess):
                    orphan.kill()
            # Their own children become ours.
            psutil.wait_procs(orphans, _GRACE_SECONDS)

    @property
    def pid(self) -> int:
        assert self._process is not None, "enter the run first"
        return self._process.pid

    def steps(self) -> Iterator[tuple[int, dict[str, Any]] | None]:
        """Yield (step, metrics) as they are logged, and None a few times a second while there is nothing new.

        Raises:
            RunFailed: the training ended with an error.
        """
        assert self._process is not None, "enter the run first"
        offset = 0
        while True:
            ended = self._process.poll()
            lines, offset = _new_lines(self.metrics_file, offset)
            for line in lines:
                entry = json.loads(line)
                yield entry["step"], entry["data"]
            if ended is not None:
                break
            if not lines:
                yield None
                time.sleep(_POLL_SECONDS)
        if ended:
            raise RunFailed(f"training ended with exit status {ended}: {last_error(self.log)} (all of it: {self.log})")


def _end_with_parent() -> None:
    """On Linux: SIGTERM when the process that started this one is gone, however it went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _new_lines(path: Path, offset: int) -> tuple[list[bytes], int]:
    """The complete lines from `offset` on, and where the next one begins."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    complete = data[: data.rfind(b"\n") + 1]
    return complete.splitlines(), offset + len(complete)


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
