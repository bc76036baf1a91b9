"""Submissions on their way through Redis, as the API process that waits for them knows them."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from code_judge.wire import RunResult, Submission


@dataclass(eq=False, slots=True)
class Call:
    """long: a long batch. client: hex digits for whose it is. left: jobs without a result. done: there is none."""

    long: bool
    client: str
    left: int
    done: "asyncio.Future[None]"


@dataclass(eq=False, slots=True)
class Pending:
    """stream, entry: once written. missed: checks in a row that did not find it there."""

    id: str
    submission: Submission
    since: float
    call: Call
    result: RunResult | None = None
    stream: str = ""
    entry: str | None = None
    missed: int = 0

    def answer(self, result: RunResult) -> None:
        """The first answer counts."""
        if self.result is None:
            self.result = result
            self.call.left -= 1
            if not self.call.left and not self.call.done.done():
                self.call.done.set_result(None)


def stored_size(submission: Submission) -> int:
    """Bytes in Redis, about."""
    texts = (submission.input, submission.expected_output)
    for test in submission.tests or ():
        expected = test.expected_output
        texts += (test.input, *([expected] if isinstance(expected, str) else expected or ()))
    files = sum(len(content) for content in (submission.files or {}).values())
    return 200 + files * 4 // 3 + len(submission.solution) + sum(len(text or "") for text in texts)


def by_stream(jobs: Iterable[Pending]) -> dict[str, list[Pending]]:
    """Those that are written."""
    found: defaultdict[str, list[Pending]] = defaultdict(list)
    for job in jobs:
        if job.entry is not None:
            found[job.stream].append(job)
    return found


def chunks(jobs: list[Pending], size: int) -> Iterable[list[Pending]]:
    return (jobs[start : start + size] for start in range(0, len(jobs), size))
