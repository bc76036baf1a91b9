"""The reward workers' way to the judge: one client an event loop, a limited number of programs on their way.

Waiting for a place costs a program nothing of its deadline, so that a step's thousands of tests, which need minutes
on a few cores, are not taken for an outage.
"""

import asyncio
import weakref

from code_judge.client import JudgeClient, JudgeOutage
from code_judge.wire import RunResult, Submission
from verl_cleaner.saar.outcome import InfrastructureError

IN_FLIGHT = 64
"""Programs of one process at the judge at a time; VeRL starts 8 reward workers."""
DEADLINE = 300.0
"""Seconds for one program with all retries, once it has a place."""


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
        self._places = asyncio.Semaphore(in_flight)

    async def run(self, submission: Submission) -> RunResult:
        """Raises InfrastructureError: no verdict in time. That is never the program's fault."""
        size = len(submission.solution) + len(submission.input or "") + len(submission.expected_output or "")
        client = self._large if size > _LARGE else self._small
        async with self._places:
            try:
                return await client.run(submission)
            except JudgeOutage as error:
                raise InfrastructureError(str(error)) from error

    async def close(self) -> None:
        await self._small.close()
        await self._large.close()


_judges: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Judge]]" = weakref.WeakKeyDictionary()


def judge_at(url: str) -> Judge:
    """The running event loop's judge with that address."""
    judges = _judges.setdefault(asyncio.get_running_loop(), {})
    if url not in judges:
        judges[url] = Judge(url)
    return judges[url]
