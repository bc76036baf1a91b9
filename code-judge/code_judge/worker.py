"""Takes jobs from the broker and runs them in the sandbox.

How many programs run at a time is decided in admission.py.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from code_judge.admission import YOUNG_SECONDS, Admission
from code_judge.broker import Job, Source, WorkerStatus, no_verdict
from code_judge.health import SOURCE
from code_judge.programs import limits_of, outputs_of, prepared, program_for, run_tests, tests_of
from code_judge.sandbox.interpreter import names
from code_judge.sandbox.link import SandboxLost
from code_judge.sandbox.pool import Program, Sandbox, check_isolation
from code_judge.settings import Settings, cores
from code_judge.tasks import background, end
from code_judge.verdict import together, verdict
from code_judge.wire import Case, Reason, RunResult, Submission

logger = logging.getLogger(__name__)


class Worker:
    def __init__(self, source: Source, settings: Settings) -> None:
        """Raises ValueError if the programs' interpreter is not as the settings want it."""
        self.source = source
        self.settings = settings
        self.sandbox = Sandbox(settings.code_judge_python, names(settings.code_judge_warm))
        self._admission = Admission(slots=settings.max_workers, cores=cores())
        self._running: dict[Job, asyncio.Task[None]] = {}
        self._gone: set[Job] = set()
        self._room = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None
        self._asking = False

    async def start(self) -> None:
        """Raises SandboxLost, and ValueError if there is less isolation than required."""
        await self.sandbox.start()
        try:
            check_isolation(self.settings.code_judge_require_isolation, self.sandbox.layers, self.sandbox.missing)
        except ValueError:
            await self.sandbox.close()
            raise
        await self.source.open(self.status, self._on_gone)
        self._taking = background(self._take())

    async def drain(self) -> None:
        """Take no more, and wait for what runs, up to DRAIN_TIME."""
        await end([self._taking] if self._taking is not None else [])
        await self.source.release(keep=self._running.keys())
        if self._running:
            await asyncio.wait(self._running.values(), timeout=self.settings.drain_time)

    async def stop(self) -> None:
        """What runs is stopped, and left to other workers where there are any."""
        await end([self._taking] if self._taking is not None else [])
        await end(self._running.values())
        await self.source.release()
        await self.sandbox.close()
        await self.source.close()

    def status(self) -> WorkerStatus:
        return WorkerStatus(self.settings.max_workers, len(self._admission), self.sandbox.layers)

    @asynccontextmanager
    async def admitted(self, place: Hashable) -> AsyncIterator[Callable[[bool], None]]:
        """Entered as soon as there is room for what runs beside the queue. Yields what is to be told when it waits for
        something else than a core."""
        while self._admission.room() <= 0:
            self._room.clear()
            await self._room.wait()
        self._admission.add(place)
        try:
            with self._growing(place):
                yield partial(self._set_idle, place)
        finally:
            self._leave(place)

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
            for job in await self._ask():
                self._admission.add(job)
                task = self._running[job] = asyncio.create_task(self._work(job))
                task.add_done_callback(partial(self._ended, job))

    def _ended(self, job: Job, _: object) -> None:
        self._running.pop(job, None)
        self._gone.discard(job)

    def _on_gone(self, job: Job) -> None:
        """Stop what runs for nobody."""
        if (task := self._running.get(job)) is not None and job not in self._gone:
            self._gone.add(job)
            task.cancel()

    async def _ask(self) -> list[Job]:
        self._asking = True
        try:
            # While it is asked, a program that slept may want a core again, so that there is no room any more.
            return await self.source.take(lambda: max(1, self._admission.room()))
        finally:
            self._asking = False

    async def _work(self, job: Job) -> None:
        try:
            result = await self._run(job)
        except (SandboxLost, OSError) as error:
            result = no_verdict(job.submission, Reason.INTERNAL_ERROR, str(error))
        except asyncio.CancelledError:
            if job not in self._gone:
                raise
            result = no_verdict(job.submission, Reason.INTERNAL_ERROR, "nobody waits for it any longer")
        except Exception:
            logger.exception("submission %s failed inside the service", job.submission.sub_id)
            result = no_verdict(job.submission, Reason.INTERNAL_ERROR, "see the service's log")
        finally:
            self._leave(job)
        self.source.finish(job, result)

    async def _run(self, job: Job) -> RunResult:
        submission = job.submission
        with self._growing(job):
            async with prepared(self.sandbox, submission, self.settings) as program:
                if isinstance(program, RunResult):
                    return program
                if submission.tests is None:
                    return await self._execute(job, submission, program, tests_of(submission)[0])
                return await self._run_tests(job, program, submission.tests)

    async def _run_tests(self, job: Job, program: Program, tests: Sequence[Case]) -> RunResult:
        """One at a time has the job's place; the others have what room there is."""
        submission, used = job.submission, set[Hashable]()

        def start(number: int) -> "asyncio.Task[RunResult] | None":
            place: Hashable = job if job not in used else object()
            # What has been asked for will take a place, too.
            if place is not job and self._admission.room() <= self._asking:
                return None
            used.add(place)
            self._admission.add(place)
            task = asyncio.create_task(self._run_test(place, submission, program, tests[number]))
            task.add_done_callback(lambda _: leave(place))
            return task

        def leave(place: Hashable) -> None:
            used.discard(place)
            if place is not job:
                self._leave(place)

        results = await run_tests(len(tests), start, early_stop=submission.options.early_stop)
        return together(submission, results)

    async def _run_test(self, place: Hashable, submission: Submission, program: Program, test: Case) -> RunResult:
        with self._growing(place):
            return await self._execute(place, submission, program, test)

    async def _execute(self, place: Hashable, submission: Submission, program: Program, test: Case) -> RunResult:
        settings = self.settings
        try:
            execution = await self.sandbox.run(program_for(program, test, settings), partial(self._set_idle, place))
        except (SandboxLost, OSError) as error:
            return no_verdict(submission, Reason.INTERNAL_ERROR, str(error))
        _, memory, length = limits_of(submission, settings)
        return verdict(submission, execution, length, memory=memory, expected=outputs_of(test))

    @contextmanager
    def _growing(self, place: Hashable) -> Iterator[None]:
        """What has this place is young for its first moments."""
        timer = asyncio.get_running_loop().call_later(YOUNG_SECONDS, self._grow, place)
        try:
            yield
        finally:
            timer.cancel()

    def _leave(self, place: Hashable) -> None:
        self._admission.remove(place)
        self._room.set()

    def _grow(self, place: Hashable) -> None:
        self._admission.grow(place)
        self._room.set()

    def _set_idle(self, place: Hashable, idle: bool) -> None:
        self._admission.set_idle(place, idle)
        self._room.set()
