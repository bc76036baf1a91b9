"""The reward workers' way to the judge: one client an event loop, a limited number of tests on their way.

A program goes to the judge once with many of its tests. Waiting for a place costs it nothing of its deadline, so that a
step's thousands of tests, which need minutes on a few cores, are not taken for an outage.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from code_judge.client import JudgeClient, JudgeOutage
from code_judge.wire import RunResult, Submission
from verl_cleaner.saar.outcome import InfrastructureError

IN_FLIGHT = 64
"""Runs of programs, one for each test, that one process has at the judge at a time; VeRL starts 8 reward workers."""
MOST_TESTS, MOST_TEXT = 32, 16 << 20
"""Tests in one submission, and the characters of more than one of them; a judge takes 64 MB."""
DEADLINE = 300.0
"""Seconds for one submission with all retries, once it has its places."""


_LARGE = 1 << 20
"""Characters of a submission from which it travels alone: sixteen of them could be more than the judge takes."""


_PROGRAMS = 32
"""Rewards of programs that a process works on at a time: the tests of one can be tens of megabytes."""


class Judge:
    """programs: to be held while a program's tests are in memory."""

    def __init__(self, url: str, *, in_flight: int = IN_FLIGHT, deadline: float | None = None) -> None:
        self.url = url
        deadline = DEADLINE if deadline is None else deadline
        self._small, self._large = (
            JudgeClient(url, deadline=deadline),
            JudgeClient(url, deadline=deadline, batch_size=1),
        )
        self.programs = asyncio.Semaphore(_PROGRAMS)
        self.most_tests = min(MOST_TESTS, in_flight)
        self._places = asyncio.Semaphore(in_flight)
        self._queue = asyncio.Lock()

    async def run(self, submission: Submission) -> RunResult:
        """At most `most_tests` tests. Raises InfrastructureError: no verdict in time. That is never the program's
        fault."""
        tests = submission.tests or []
        client = self._large if len(tests) > 1 or _size(submission) > _LARGE else self._small
        async with self._hold(max(1, len(tests))):
            try:
                return await client.run(submission)
            except JudgeOutage as error:
                raise InfrastructureError(str(error)) from error

    @asynccontextmanager
    async def _hold(self, places: int) -> AsyncIterator[None]:
        """First come, first served, so that many tests are not overtaken by few for ever."""
        held = 0
        try:
            async with self._queue:
                while held < places:
                    await self._places.acquire()
                    held += 1
            yield
        finally:
            for _ in range(held):
                self._places.release()

    async def close(self) -> None:
        await self._small.close()
        await self._large.close()


def _size(submission: Submission) -> int:
    """In characters, of one with at most one test."""
    return len(submission.solution) + sum(len(test.model_dump_json()) for test in submission.tests or ())


_judges: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Judge]]" = weakref.WeakKeyDictionary()


def judge_at(url: str) -> Judge:
    """The running event loop's judge with that address."""
    judges = _judges.setdefault(asyncio.get_running_loop(), {})
    if url not in judges:
        judges[url] = Judge(url)
    return judges[url]
