"""A judge of its own for tests that run programs, as its users start it."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60


@contextlib.contextmanager
def live_judge(**settings: object) -> Iterator[str]:
    """Its address. settings: MAX_EXECUTION_TIME and the like."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "url"
        command = [sys.executable, "-m", "code_judge.cli", "serve", "--port", "0", "--port-file", str(port_file)]
        environment = os.environ | {name: str(value) for name, value in settings.items()}
        with subprocess.Popen(
            [*command, "--parent-pid", str(os.getpid())], env=environment, stdout=subprocess.DEVNULL
        ) as process:
            end = time.monotonic() + START_SECONDS
            while not port_file.exists() or not port_file.read_text():
                assert (process.poll(), time.monotonic() < end) == (None, True), "the judge did not start"
                time.sleep(0.05)
            try:
                yield port_file.read_text().strip()
            finally:
                process.terminate()
