"""SandboxFusion's `POST /run_code`, which stock VeRL's code reward calls (`reward.sandbox_fusion.url`).

Time and memory that a request asks for hold up to this service's own limits. All of the output is returned, because
that client compares it itself. Where the service has no verdict it answers 504, the one status that client tries again.
"""

import json
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field

from code_judge.asgi import Reply, Request, Routes
from code_judge.attachments import Content
from code_judge.settings import Settings
from code_judge.wire import TIMEOUT_MARK, Limits, Reason, RunResult, Submission

logger = logging.getLogger(__name__)
KILLED = -9
"""Return code of what was ended for its memory or output."""


class RunStatus(StrEnum):
    SUCCESS = "Success"
    FAILED = "Failed"
    SANDBOX_ERROR = "SandboxError"


class CommandStatus(StrEnum):
    FINISHED = "Finished"
    ERROR = "Error"
    TIME_LIMIT_EXCEEDED = "TimeLimitExceeded"


class RunCode(BaseModel):
    """compile_timeout, run_timeout: s. memory_limit_MB: none or a negative one is this service's. files: see
    Submission; without content, none. fetch_files: those of which there are none are left out."""

    code: str
    language: Literal["python", "cpp"]
    stdin: str | None = None
    compile_timeout: float = Field(default=10, gt=0)
    run_timeout: float = Field(default=10, gt=0)
    memory_limit_MB: int | None = None
    files: dict[str, Content | None] = {}
    fetch_files: list[str] = []


class CommandResult(BaseModel):
    """execution_time: s. return_code: minus the signal that ended it; none where its time was over."""

    status: CommandStatus
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class RunCodeResult(BaseModel):
    status: RunStatus
    message: str = ""
    compile_result: CommandResult | None = None
    run_result: CommandResult | None = None
    executor_pod_name: str | None = None
    files: dict[str, Content] = {}


class SandboxFusion:
    """run: see Contract.run."""

    def __init__(self, run: Callable[..., Awaitable[list[RunResult]]], settings: Settings) -> None:
        self._run = run
        self._settings = settings
        self._told: set[str] = set()

    def add_to(self, routes: Routes) -> None:
        routes.add("POST", "/run_code", self._endpoint)

    async def _endpoint(self, request: Request) -> Reply:
        asked = RunCode.model_validate_json(request.body)
        settings = self._settings
        self._tell("run_timeout", asked.run_timeout, settings.max_execution_time, "MAX_EXECUTION_TIME")
        memory = asked.memory_limit_MB if asked.memory_limit_MB and asked.memory_limit_MB > 0 else settings.max_memory
        self._tell("memory_limit_MB", memory, settings.max_memory, "MAX_MEMORY")
        limits = Limits(seconds=asked.run_timeout, memory=memory, output=settings.max_output_size)
        files = {name: content for name, content in asked.files.items() if content is not None}
        submission = Submission(
            type=asked.language,
            solution=asked.code,
            input=asked.stdin,
            limits=limits,
            files=files,
            fetch=asked.fetch_files,
        )
        result = (await self._run([submission], client=request.client, wait=False))[0]
        if result.reason in (Reason.QUEUE_TIMEOUT, Reason.INTERNAL_ERROR):
            return Reply(json.dumps({"detail": f"{result.reason}: {result.stderr}"}).encode(), 504)
        return Reply(answer(result, asked.language).model_dump_json().encode())

    def _tell(self, key: str, asked: float, most: float, variable: str) -> None:
        """Once, since every request of a run asks for the same."""
        if asked > most and key not in self._told:
            self._told.add(key)
            logger.warning("requests ask for %s=%g and get %g; raise %s if they need more", key, asked, most, variable)


def answer(result: RunResult, language: str) -> RunCodeResult:
    """Of a program that has a verdict."""
    compiled = CommandResult(status=CommandStatus.FINISHED, return_code=0, stdout="", stderr="")
    if result.kind == "compile_error":
        timed_out = result.exit_code is None
        compilation = CommandResult(
            status=CommandStatus.TIME_LIMIT_EXCEEDED if timed_out else CommandStatus.FINISHED,
            execution_time=result.cost,
            return_code=result.exit_code,
            stdout="",
            stderr=result.stderr,
        )
        return RunCodeResult(status=RunStatus.FAILED, compile_result=compilation)
    timed_out = result.kind == "timeout"
    run = CommandResult(
        status=CommandStatus.TIME_LIMIT_EXCEEDED if timed_out else CommandStatus.FINISHED,
        execution_time=result.cost,
        return_code=None if timed_out else KILLED if result.exit_code is None else result.exit_code,
        stdout=result.stdout.removesuffix(TIMEOUT_MARK) if timed_out else result.stdout,
        stderr=result.stderr,
    )
    return RunCodeResult(
        status=RunStatus.SUCCESS if result.run_success else RunStatus.FAILED,
        compile_result=compiled if language == "cpp" else None,
        run_result=run,
        files=result.files or {},
    )
