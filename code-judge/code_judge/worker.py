"""Takes jobs from the broker and runs them in the sandbox.

How many programs run at a time is decided in admission.py.
"""

import asyncio
import logging
import os
from dataclasses import replace
from functools import partial

from code_judge.admission import YOUNG_SECONDS, Admission
from code_judge.broker import Job, Source, WorkerStatus, no_verdict
from code_judge.health import SOURCE
from code_judge.public_settings import compile_command
from code_judge.sandbox.link import SandboxLost
from code_judge.sandbox.pool import Program, Sandbox, check_isolation
from code_judge.settings import Settings, cores
from code_judge.tasks import background, end
from code_judge.verdict import compile_error, verdict
from code_judge.wire import Reason, RunResult

logger = logging.getLogger(__name__)


class Worker:
    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self.sandbox = Sandbox()
        self._admission = Admission(slots=settings.max_workers, cores=cores())
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises SandboxLost, and ValueError if there is less isolation than required."""
        await self.sandbox.start()
        try:
            check_isolation(self.settings.code_judge_require_isolation, self.sandbox.layers, self.sandbox.missing)
        except ValueError:
            await self.sandbox.close()
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
        await self.sandbox.close()
        await self.source.close()

    def status(self) -> WorkerStatus:
        return WorkerStatus(self.settings.max_workers, len(self._running), self.sandbox.layers)

    async def run_probe(self) -> str:
        """The output of health.SOURCE, run beside the queue. Raises SandboxLost."""
        settings = self.settings
        program = Program(SOURCE, "", settings.max_execution_time, settings.max_memory << 20, settings.max_output_size)
        return (await self.sandbox.run(program)).stdout

    async def _take(self) -> None:
        while True:
            while self._admission.room() <= 0:
                self._room.clear()
                await self._room.wait()
            for job in await self.source.take(self._admission.room):
                self._admission.add(job)
                task = asyncio.create_task(self._work(job))
                self._running.add(task)
                task.add_done_callback(self._ended)

    async def _work(self, job: Job) -> None:
        growing = asyncio.get_running_loop().call_later(YOUNG_SECONDS, self._grow, job)
        try:
            result = await self._run(job)
        except Exception:
            logger.exception("submission %s failed inside the service", job.submission.sub_id)
            result = no_verdict(job.submission, Reason.INTERNAL_ERROR, "see the service's log")
        finally:
            growing.cancel()
            self._admission.remove(job)
        self.source.finish(job, result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.set()

    def _grow(self, job: Job) -> None:
        self._admission.grow(job)
        self._room.set()

    def _set_idle(self, job: Job, idle: bool) -> None:
        self._admission.set_idle(job, idle)
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
                return await self._compile_and_run(job, program)
            execution = await self.sandbox.run(program, partial(self._set_idle, job))
        except (SandboxLost, OSError) as error:
            return no_verdict(submission, Reason.INTERNAL_ERROR, str(error))
        return verdict(submission, execution, settings.max_stdout_error_length, memory=settings.max_memory)

    async def _compile_and_run(self, job: Job, program: Program) -> RunResult:
        submission, settings = job.submission, self.settings
        length = settings.max_stdout_error_length
        binary = os.memfd_create("code-judge-binary", os.MFD_CLOEXEC)
        try:
            compilation = await self.sandbox.run(
                replace(
                    program,
                    stdin="",
                    seconds=settings.cpp_compile_time,
                    memory=settings.cpp_compile_memory << 20,
                    compiler=compile_command(settings.cpp_compile_command),
                    binary=binary,
                )
            )
            if compilation.why is not None or compilation.status != 0:
                return compile_error(submission, compilation, length)
            # What is open for writing cannot be executed.
            readable = os.open(f"/proc/self/fd/{binary}", os.O_RDONLY | os.O_CLOEXEC)
            os.close(binary)
            binary = readable
            program = replace(program, source="", binary=binary)
            execution = await self.sandbox.run(program, partial(self._set_idle, job))
            return verdict(submission, execution, length, memory=settings.max_memory)
        finally:
            os.close(binary)
