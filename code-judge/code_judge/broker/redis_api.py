"""The submitting side of the queue in Redis, one a process.

Jobs are written and results read in whatever number has come together since the last round trip. What cannot be known
is answered as our failure: a job that Redis has lost within seconds, all jobs once Redis could not be reached for
`patience` seconds.
"""

import asyncio
import hashlib
import itertools
import logging
import uuid
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any

from code_judge.broker import Status, no_verdict
from code_judge.broker.clients import Counts
from code_judge.broker.redis_keys import API_TTL, Keys
from code_judge.broker.redis_link import BLOCK_SECONDS, LOST, TRIP_SECONDS, Link, run_script
from code_judge.broker.redis_pending import Call, Pending, stored_size
from code_judge.broker.redis_scripts import ADD
from code_judge.broker.redis_status import add_samples, beat_and_count, read_status
from code_judge.broker.redis_written import MOST_AT_ONCE, leave, note_missing, withdraw
from code_judge.tasks import Throttle, background, end
from code_judge.wire import Reason, RunResult, Submission, programs

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
AT_ONCE = 8 << 20
"""Bytes of submissions in one round trip, more only for a single one; bytes of results read that Redis still keeps."""
_LAST_SECONDS = 2.0


class RedisBroker:
    def __init__(self, uri: str, *, prefix: str, patience: float) -> None:
        """prefix: of the keys."""
        self._link = Link(uri, Keys(prefix))
        self._keys = self._link.keys
        self._patience = patience
        name = uuid.uuid4().hex
        self._reply, self._alive = self._keys.results + name, self._keys.api + name
        self._ids = itertools.count()
        self._pending: dict[str, Pending] = {}
        self._unwritten: list[Pending] = []
        # Of this process, not yet answered; and jobs of all processes.
        self._waiting, self._in_redis = Counts(), 0
        self._samples: defaultdict[str, float] = defaultdict(float)
        self._wake = asyncio.Event()
        self._last = "0"
        self._untrimmed = 0
        self._reachable = 0.0
        # Seconds between two round trips of a kind: at most a tenth of the time that the last job took.
        self._pause = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._asides: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        self._reachable = asyncio.get_running_loop().time()
        self._tasks = [background(loop) for loop in (self._write(), self._read(), self._check())]

    async def stop(self) -> None:
        if self._asides:
            # Jobs of calls that were cut short are taken back, so that nobody runs them.
            await asyncio.wait(self._asides, timeout=_LAST_SECONDS)
        await end(self._tasks)
        await self._link.close()

    async def submit(
        self, submissions: Sequence[Submission], *, life_time: float, long: bool = False, client: str = ""
    ) -> list[RunResult]:
        loop = asyncio.get_running_loop()
        now, call = loop.time(), Call(long, _digest(client), len(submissions), loop.create_future())
        jobs = [Pending(str(next(self._ids)), s, now, call) for s in submissions]
        self._pending.update((job.id, job) for job in jobs)
        self._unwritten += jobs
        count = programs(submissions)
        self._waiting.add(client, count)
        self._wake.set()
        timer = loop.call_later(life_time, lambda: self._aside(self._expire(jobs)))
        try:
            await call.done
        finally:
            self._waiting.add(client, -count)
            timer.cancel()
            for job in jobs:
                self._pending.pop(job.id, None)
            if call.left:
                # The client has gone.
                self._aside(leave(self._link, [job for job in jobs if job.result is None]))
        return [job.result for job in jobs if job.result is not None]

    def count(self, samples: Mapping[str, float]) -> None:
        for name, value in samples.items():
            self._samples[name] += value

    def waiting(self) -> int:
        """Those of other processes as they were a second ago, each job as one."""
        return max(self._waiting.total, self._in_redis)

    def waiting_of(self, client: str) -> int:
        return self._waiting.of(client)

    async def status(self) -> Status:
        return await read_status(self._link)

    async def _write(self) -> None:
        """Write what was submitted since the last time."""
        throttle = Throttle()
        while True:
            await self._wake.wait()
            await throttle.turn(self._pause)
            # An interrupted write may have been executed; a job that runs twice still gets one result.
            await self._link.retry_for_ever(self._write_some)
            if not self._unwritten:
                self._wake.clear()

    async def _write_some(self, client: Any) -> None:
        batch: list[Pending] = []
        size = taken = 0
        for job in self._unwritten:
            taken += 1
            if job.id in self._pending and job.result is None:
                batch.append(job)
                size += stored_size(job.submission)
            if size > AT_ONCE or len(batch) >= MOST_AT_ONCE:
                break
        if batch:
            keys, values = self._keys, [self._reply, self._alive, str(int(API_TTL * 1000))]
            for job in batch:
                values += (str(int(job.call.long)), job.call.client, job.id, job.submission.model_dump_json())
            entries = await run_script(client, ADD, (*keys.streams, keys.owners), *values)
            for job, lane, entry in zip(batch, entries[::2], entries[1::2], strict=True):
                job.stream, job.entry = keys.streams[lane], entry.decode()
            if gone := [job for job in batch if job.id not in self._pending]:
                # The client went away meanwhile.
                self._aside(leave(self._link, gone))
        del self._unwritten[:taken]

    async def _read(self) -> None:
        throttle = Throttle()
        while True:
            await throttle.turn(self._pause)
            streams = {self._reply: self._last}
            reply = await self._link.retry_for_ever(
                lambda client, streams=streams: client.xread(streams, count=512, block=int(BLOCK_SECONDS * 1000))  # type: ignore[misc]
            )
            now = self._reachable = asyncio.get_running_loop().time()
            for _, entries in reply:
                for entry, fields in entries:
                    self._last = entry
                    self._untrimmed += len(fields[b"result"])
                    self._settle(fields, now)
            if self._untrimmed > AT_ONCE:
                await self._link.retry_for_ever(self._trim)

    async def _trim(self, client: Any) -> None:
        """Remove the results that have been read, once a second or when they are many; the last few stay."""
        await client.xtrim(self._reply, minid=self._last)
        self._untrimmed = 0

    def _settle(self, fields: dict[bytes, bytes], now: float) -> None:
        job = self._pending.get(fields[b"id"].decode())
        if job is not None:
            result = RunResult.model_validate_json(fields[b"result"])
            result.sub_id = job.submission.sub_id
            job.answer(result)
            self._pause = min(TRIP_SECONDS, (now - job.since) / 10)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = asyncio.get_running_loop().time()
            reachable = now - self._reachable < self._patience
            old = [job for job in self._pending.values() if now - job.since > self._patience]
            self._fail(
                [job for job in old if job.entry is None or not reachable],
                f"Redis could not be reached for {self._patience:g} s",
            )
            try:
                self._in_redis = await beat_and_count(self._link, self._alive)
                await self._look_for_lost_jobs(now)
                await self._write_samples()
                if self._untrimmed:
                    await self._link.call(self._trim)
            except LOST as error:
                logger.debug("Redis cannot be reached: %s", error)

    async def _look_for_lost_jobs(self, now: float) -> None:
        """A job that is neither in its stream nor answered, three times in a row, is lost."""
        await note_missing(self._link, [job for job in self._pending.values() if now - job.since > CHECK_SECONDS])
        if any(job.missed for job in self._pending.values()):
            # Its result may be there, before what was read last: Redis' clock was set back.
            self._last = "0"
        self._fail([job for job in self._pending.values() if job.missed >= 3], "Redis has lost the submission")

    async def _write_samples(self) -> None:
        samples, self._samples = self._samples, defaultdict(float)
        await add_samples(self._link, samples)

    async def _expire(self, jobs: list[Pending]) -> None:
        """Answer those of `jobs` that nobody has taken."""
        waiting = [job for job in jobs if job.result is None]
        try:
            withdrawn = await asyncio.wait_for(withdraw(self._link, waiting), 2)
        except (TimeoutError, *LOST):
            self._fail(waiting, "Redis cannot be reached")
            return
        for job in withdrawn:
            job.answer(no_verdict(job.submission, Reason.QUEUE_TIMEOUT))

    def _aside(self, work: Coroutine[Any, Any, object]) -> None:
        """Best effort, while the caller goes on."""
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _fail(self, jobs: Iterable[Pending], why: str) -> None:
        for job in jobs:
            job.answer(no_verdict(job.submission, Reason.INTERNAL_ERROR, why))


def _digest(client: str) -> str:
    """Its name may be a secret, or as long as it likes."""
    return hashlib.blake2b(client.encode("utf-8", "replace"), digest_size=8).hexdigest()
