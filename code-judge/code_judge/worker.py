"""Takes jobs from the broker and runs them in the sandbox.

There are more slots than cores: a program that sleeps or loops keeps its slot until its limit. Programs younger than
YOUNG_SECONDS are limited to a few a core, so that the short ones, which are nearly all, run one after the other instead
of all at once; an older one no longer counts, and the next may start.
"""

import asyncio
import logging
import os
import shlex
from dataclasses import replace

from code_judge.broker import Job, Source, WorkerStatus, no_verdict
from code_judge.sandbox.link import SandboxLost
from code_judge.sandbox.pool import Program, Sandbox, check_isolation
from code_judge.settings import Settings, cores
from code_judge.tasks import background, end
from code_judge.verdict import compile_error, verdict
from code_judge.wire import Reason, RunResult, Submission

logger = logging.getLogger(__name__)

YOUNG_SECONDS = 0.1
YOUNG_PER_CORE = 3


class Worker:
    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self.sandbox = Sandbox()
        self._most_young = YOUNG_PER_CORE * cores()
        self._young: set[Job] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises SandboxLost, and ValueError if there is less isolation than required."""
        await self.sandbox.start()
        try:
            check_isolation(self.settings.code_judge_require_isolation, self.sandbox.layers, self.sandbox.missing)
        except ValueError:
            self.sandbox.close()
            raise
        await self.source.open(self.status)
        self._taking = background(self._take())

    async def drain(self) -> None:
        """Take no more, and wait for what runs."""
        await end([self._taking] if self._taking is not None else [])
        await self.source.release()
        if self._running:
            await asyncio.wait(self._running)

    async def stop(self) -> None:
        await end([self._taking] if self._taking is not None else [])
        await end(self._running)
        self.sandbox.close()
        await self.source.close()

    def status(self) -> WorkerStatus:
        return WorkerStatus(self.settings.max_workers, len(self._running), self.sandbox.layers)

    async def _take(self) -> None:
        while True:
            while self._count_room() <= 0:
                self._room.clear()
                await self._room.wait()
            for job in await self.source.take(self._count_room):
                self._young.add(job)
                task = asyncio.create_task(self._work(job))
                self._running.add(task)
                task.add_done_callback(self._ended)

    def _count_room(self) -> int:
        return min(self.settings.max_workers - len(self._running), self._most_young - len(self._young))

    async def _work(self, job: Job) -> None:
        growing_old = asyncio.get_running_loop().call_later(YOUNG_SECONDS, self._no_longer_young, job)
        try:
            result = await self._run(job)
        except Exception:
            logger.exception("submission %s failed inside the service", job.submission.sub_id)
            result = no_verdict(job.submission, Reason.INTERNAL_ERROR, "see the service's log")
        finally:
            growing_old.cancel()
            self._no_longer_young(job)
        self.source.finish(job, result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.set()

    def _no_longer_young(self, job: Job) -> None:
        self._young.discard(job)
        self._room.set()

    async def _run(self, job: Job) -> RunResult:
        submission, settings = job.submission, self.settings
        program = Program(
            source=submission.solution,
            stdin=submission.input or "",
            seconds=settings.max_execution_time,
            memory=settings.max_memory << 20,
            # An expected output must be able to come, however long it is.
            output=settings.max_output_size + len((submission.expected_output or "").encode("utf-8", "replace")),
            echo=submission.options.echo_last_expression,
        )
        try:
            if submission.type == "cpp":
                return await self._compile_and_run(submission, program)
            execution = await self.sandbox.run(program)
        except (SandboxLost, OSError) as error:
            return no_verdict(submission, Reason.INTERNAL_ERROR, str(error))
        return verdict(submission, execution, settings.max_stdout_error_length)

    async def _compile_and_run(self, submission: Submission, program: Program) -> RunResult:
        settings = self.settings
        length = settings.max_stdout_error_length
        binary = os.memfd_create("code-judge-binary", os.MFD_CLOEXEC)
        try:
            compilation = await self.sandbox.run(
                replace(
                    program,
                    stdin="",
                    seconds=settings.cpp_compile_time,
                    memory=settings.cpp_compile_memory << 20,
                    compiler=tuple(shlex.split(settings.cpp_compile_command)),
                    binary=binary,
                )
            )
            if compilation.why is not None or compilation.status != 0:
                return compile_error(submission, compilation, length)
            # What is open for writing cannot be executed.
            readable = os.open(f"/proc/self/fd/{binary}", os.O_RDONLY | os.O_CLOEXEC)
            os.close(binary)
            binary = readable
            return verdict(submission, await self.sandbox.run(replace(program, source="", binary=binary)), length)
        finally:
            os.close(binary)
