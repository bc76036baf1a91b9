"""Starts the service as its users do: a process of its own, on a port that the system picks."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 120
EXTRA = {"X-Code-Judge-Extra": "1"}
"""Asks for `kind`, `line` and the whole status, which the public contract does not have."""


def on_this_machine(seconds: float) -> float:
    """How long may take what takes `seconds` on an idle machine: a program waits for its turn on a core."""
    return seconds * max(1.0, 2 * os.getloadavg()[0] / len(os.sched_getaffinity(0)))


@dataclass
class Judge:
    url: str
    process: subprocess.Popen[str]
    http: httpx.Client

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        reply = self.http.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def run(self, solution: str, **more: Any) -> dict[str, Any]:
        return self.post("/run", **{"type": "python", "solution": solution, **more})

    def run_all(self, solutions: list[str], path: str = "/run/long-batch", **more: Any) -> list[dict[str, Any]]:
        submissions = [{"type": "python", "solution": solution, **more} for solution in solutions]
        return self.post(path, type="batch", submissions=submissions)["results"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "code_judge.cli", *arguments]


def environment(**settings: Any) -> dict[str, str]:
    return {**os.environ, **{name: str(value) for name, value in settings.items()}}


def start(*arguments: str, stderr: Any = None, **settings: Any) -> tuple[subprocess.Popen[str], str]:
    """`code-judge serve` and its URL, once it says that it serves."""
    process = subprocess.Popen(
        command("serve", "--port", "0", *arguments),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(**settings),
    )
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if ready else ""
    if "serving on " not in line:
        process.kill()
        raise AssertionError(f"code-judge serve said {line!r}, exit status {process.wait()}")
    return process, line.rsplit(" ", 1)[1].strip()


@contextlib.contextmanager
def judge(*arguments: str, **settings: Any) -> Iterator[Judge]:
    process, url = start(*arguments, **settings)
    try:
        with httpx.Client(base_url=url, timeout=300, headers=EXTRA) as http:
            yield Judge(url, process, http)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def descendants(pid: int) -> list[int]:
    """Living processes below `pid`, however deep."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
