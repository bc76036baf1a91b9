"""The broker inside one process."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from code_judge.broker import Job, Status, WorkerStatus, no_verdict
from code_judge.broker.clients import Counts, Line
from code_judge.wire import Reason, RunResult, Submission, programs


class MemoryBroker:
    """Both sides. The jobs of long batches and the others wait in lines of their own and take turns, so that a long
    batch does not let the others expire. In each line the clients take turns."""

    def __init__(self) -> None:
        self._lines: tuple[Line[Job], Line[Job]] = Line(), Line()
        self._turn = 0
        self._arrived = asyncio.Event()
        self._status: Callable[[], WorkerStatus] | None = None
        self._on_gone: Callable[[Job], None] = lambda job: None
        self._waiting = Counts()
        self._totals: defaultdict[str, float] = defaultdict(float)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def submit(
        self, submissions: Sequence[Submission], *, life_time: float, long: bool = False, client: str = ""
    ) -> list[RunResult]:
        loop = asyncio.get_running_loop()
        jobs = [Job(submission, loop.create_future()) for submission in submissions]
        line = self._lines[1 if long else 0]
        line.add(client, jobs)
        count = programs(submissions)
        self._waiting.add(client, count)
        self._arrived.set()
        timer = loop.call_later(life_time, self._expire, jobs, line, client)
        try:
            results: list[RunResult] = await asyncio.gather(*(job.ticket for job in jobs))
            return results
        finally:
            self._waiting.add(client, -count)
            timer.cancel()
            for job in jobs:
                if job.ticket.cancel() or job.ticket.cancelled():
                    self._on_gone(job)

    def count(self, samples: Mapping[str, float]) -> None:
        for name, value in samples.items():
            self._totals[name] += value

    def waiting(self) -> int:
        return self._waiting.total

    def waiting_of(self, client: str) -> int:
        return self._waiting.of(client)

    async def status(self) -> Status:
        queued = sum(not job.ticket.done() for line in self._lines for job in line)
        return Status(queued, () if self._status is None else (self._status(),), self._totals)

    async def open(self, status: Callable[[], WorkerStatus], on_gone: Callable[[Job], None] = lambda job: None) -> None:
        self._status, self._on_gone = status, on_gone

    async def close(self) -> None:
        self._status = None

    async def take(self, room: Callable[[], int]) -> list[Job]:
        jobs: list[Job] = []
        while not jobs:
            await self._arrived.wait()
            most = room()
            while len(jobs) < most and any(self._lines):
                self._turn = 1 - self._turn
                line = self._lines[self._turn] or self._lines[1 - self._turn]
                job = line.pop()
                if not job.ticket.done():
                    jobs.append(job)
            if not any(self._lines):
                self._arrived.clear()
        return jobs

    async def release(self, keep: Collection[Job] = ()) -> None:
        """There are no others."""

    def finish(self, job: Job, result: RunResult) -> None:
        if not job.ticket.done():
            job.ticket.set_result(result)

    def _expire(self, jobs: Sequence[Job], line: Line[Job], client: str) -> None:
        """Answer those of `jobs` that nobody has taken."""
        for job in set(jobs).intersection(line.of(client)):
            self.finish(job, no_verdict(job.submission, Reason.QUEUE_TIMEOUT))
