"""The service of a soak: API processes, workers, and Redis where it is the soak's own; each can be ended meanwhile."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from code_judge.bench.processes import tree

LIFE_SECONDS = 30.0
"""That a program may wait to be started."""
LIMIT_SECONDS = 2.0
"""Of a program."""
_END_SECONDS = 120.0


@dataclass(slots=True)
class Api:
    """redis: its REDIS_URI; none, without Redis."""

    redis: str | None
    url: str = ""
    process: "subprocess.Popen[str] | None" = None


class Service:
    def __init__(self, folder: Path, uris: Sequence[str | None], *, apis: int) -> None:
        """folder: for temporary files. uris: REDIS_URI of the API processes and of the workers, in turns; (None,) for
        one process without Redis."""
        self._environment = {
            **os.environ,
            "TMPDIR": str(folder),
            "MAX_EXECUTION_TIME": f"{LIMIT_SECONDS:g}",
            "LONG_BATCH_MAX_QUEUE_WAIT_TIME": f"{LIFE_SECONDS:g}",
            "MAX_QUEUE_WORK_LIFE_TIME": f"{LIFE_SECONDS:g}",
        }
        self._workers = [self._start("workers", uri) for uri in uris if uri is not None]
        self.apis = [Api(uris[number % len(uris)]) for number in range(apis)]
        for api in self.apis:
            self._start_api(api)

    @property
    def urls(self) -> list[str]:
        return [api.url for api in self.apis]

    @property
    def processes(self) -> "list[subprocess.Popen[str]]":
        return [*self._workers, *(api.process for api in self.apis if api.process is not None)]

    def tree(self) -> list[int]:
        """All its processes, programs too."""
        return list(tree(*(process.pid for process in self.processes)))

    def restart(self, api: Api, *, kill: bool) -> None:
        """End it, by SIGKILL or as a deployment does, and start another one at its address."""
        assert api.process is not None
        api.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        api.process.wait(_END_SECONDS)
        self._start_api(api)

    def stop(self) -> None:
        """Raises subprocess.TimeoutExpired."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        try:
            for process in self.processes:
                process.wait(_END_SECONDS)
        finally:
            for process in self.processes:
                process.kill()

    def _start_api(self, api: Api) -> None:
        port = api.url.rpartition(":")[2] or "0"
        api.process = self._start("serve", api.redis, "--port", port, "--parent-pid", str(os.getpid()))
        stdout = api.process.stdout
        assert stdout is not None
        api.url = stdout.readline().split()[-1]

    def _start(self, command: str, uri: str | None, *arguments: str) -> "subprocess.Popen[str]":
        redis = {} if uri is None else {"REDIS_URI": uri, "RUN_WORKERS": "0"}
        started = [sys.executable, "-m", "code_judge.cli", command, *arguments]
        return subprocess.Popen(started, stdout=subprocess.PIPE, text=True, env=self._environment | redis)
