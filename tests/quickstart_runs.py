"""A recipe as a process: what it printed, what still runs of it."""

import os
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MARK = "CLEANER_TEST_RUN"
MULTI_TURN = "actor_rollout_ref.rollout.multi_turn"


class Recipe:
    """`recipe/cleaner/NAME ARGUMENTS` with its output lines; `left` lists what still runs of it."""

    def __init__(self, name: str, *arguments: str, **variables: str) -> None:
        self.mark = uuid.uuid4().hex
        # Short: Ray keeps sockets below it, whose paths may have 107 bytes.
        self.temporary = tempfile.mkdtemp(prefix="cleaner-", dir="/tmp")
        environment = {key: value for key, value in os.environ.items() if key != "CODE_JUDGE_URL"}
        self.process = subprocess.Popen(
            ["bash", f"recipe/cleaner/{name}", *arguments],
            cwd=REPOSITORY,
            env=environment | {MARK: self.mark, "TMPDIR": self.temporary} | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []

    def until(self, text: str) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"{text!r} did not come:\n{self.text}\n{self.log()}")

    def finish(self) -> int:
        self.lines += self.process.stdout
        return self.process.wait(60)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def log(self) -> str:
        return ""

    def processes(self) -> dict[int, str]:
        """Ours are known by the mark in their environment; the sandbox's, which is cleaned, by its folder."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{MARK}={self.mark}".encode() in environment or self.temporary.encode() in command:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    def left(self, seconds: float = 30) -> dict[int, str]:
        """What is still there after `seconds`; returns as soon as nothing is."""
        end = time.monotonic() + seconds
        while (processes := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)
        return processes


class Quickstart(Recipe):
    """`quickstart.sh ARGUMENTS` into a folder."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self.out = out
        super().__init__("quickstart.sh", *arguments, OUTPUT_DIR=str(out))

    def log(self) -> str:
        logs = [*self.out.glob("*/train.log"), *self.out.glob("judge.log")]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-6000:]}" for path in logs)
