"""Between the API, which submits, and the workers, which take: a queue that answers every submission.

memory.py      both sides in one process               clients.py       whose turn it is there
redis_api.py     the submitting side of a queue in Redis
  redis_pending.py  jobs as this side knows them      redis_status.py  the service's status and totals
  redis_written.py  taking them back, missing them
redis_worker.py  its taking side
  redis_entries.py  jobs as they lie in Redis         redis_pulse.py   signs of life, jobs of dead workers
  redis_gone.py     jobs that nobody waits for
redis_keys.py    what is where in Redis               redis_scripts.py scripts that change it in one step
redis_link.py    connecting, and what counts as losing the connection
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from code_judge.wire import Reason, RunResult, Submission


@dataclass(eq=False, slots=True)
class Job:
    """One submission on its way. `ticket`: the broker's own, to find it again."""

    submission: Submission
    ticket: Any = None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """slots: programs it runs at most at a time. busy: at this moment. isolation: layers in force."""

    slots: int
    busy: int
    isolation: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """queued: jobs not yet started. totals: metric samples since the queue exists, by name."""

    queued: int
    workers: tuple[WorkerStatus, ...]
    totals: Mapping[str, float] = field(default_factory=dict)


class Broker(Protocol):
    """The submitting side."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def submit(
        self, submissions: Sequence[Submission], *, life_time: float, long: bool = False, client: str = ""
    ) -> list[RunResult]:
        """Results in the order of the submissions. What has not started after `life_time` seconds is answered
        `queue_timeout`. long: a long batch, which takes turns with the others. client: whose they are; clients take
        turns as well. Cancelling the call drops what has not started."""

    def count(self, samples: Mapping[str, float]) -> None:
        """Add to the totals."""

    def waiting(self) -> int:
        """Programs in the queue or running, as far as this process knows; a test is one."""

    def waiting_of(self, client: str) -> int:
        """Those that this process took from the client."""

    async def status(self) -> Status:
        """Raises BrokerLost."""


class Source(Protocol):
    """The taking side, of one worker."""

    async def open(self, status: Callable[[], WorkerStatus], on_gone: Callable[[Job], None] = lambda job: None) -> None:
        """status: what the worker does now. on_gone: called with a job that `take` has returned when nobody waits for
        its result any longer, maybe more than once."""

    async def close(self) -> None: ...

    async def take(self, room: Callable[[], int]) -> list[Job]:
        """The next jobs to run, at least one, at most as many as `room` says, which is at least one and may change from
        call to call."""

    def finish(self, job: Job, result: RunResult) -> None: ...

    async def release(self, keep: Collection[Job] = ()) -> None:
        """No `take` follows: jobs without a result are for other workers, but for those to `keep`. It does not count as
        a delivery that this worker had them."""


class BrokerLost(Exception):
    """The queue cannot be reached."""


def no_verdict(submission: Submission, reason: Reason, message: str = "") -> RunResult:
    return RunResult(
        sub_id=submission.sub_id, success=False, run_success=False, cost=0, reason=reason, stderr=message, kind=""
    )
