"""The taking side of the queue in Redis, one a worker.

A job stays this worker's until its result is written, or until it gives no sign of life (redis_pulse.py). A job that
was running in `deliveries` workers when they died may be what kills them, or it may have run beside what does: it is
given up, and answered as our failure. Results are written in the round trip that asks for the next jobs, if one is due.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import redis.exceptions
from pydantic import ValidationError

from code_judge.broker import Job, WorkerStatus, no_verdict
from code_judge.broker.redis_entries import (
    Entry,
    count_as_begun,
    create_groups,
    give_back,
    new_entries,
    pairs,
    to_the_end,
)
from code_judge.broker.redis_gone import Gone, Taken
from code_judge.broker.redis_keys import GROUP, RESULTS_TTL, Keys
from code_judge.broker.redis_link import BLOCK_SECONDS, LOST, TRIP_SECONDS, Link, run_script
from code_judge.broker.redis_pulse import BEAT_SECONDS, Pulse
from code_judge.broker.redis_scripts import EXCHANGE, RECOVER
from code_judge.tasks import Throttle, background, end
from code_judge.wire import Reason, RunResult, Submission

logger = logging.getLogger(__name__)


class RedisSource:
    def __init__(self, uri: str, *, prefix: str, deliveries: int) -> None:
        """prefix: of the keys."""
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._link = Link(uri, Keys(prefix))
        self._streams = self._link.keys.streams
        self._gone = Gone(self._link.keys, taken=lambda: self._mine.values(), on_gone=lambda job: self._on_gone(job))
        self._on_gone: Callable[[Job], None] = lambda job: None
        self._pulse = Pulse(
            self._link,
            self.name,
            status=lambda: self._status(),
            on_beat=self._on_beat,
            wanted=self._room_for_orphans,
            on_found=lambda found: self._keep(found, counted=False),
        )
        self._deliveries = deliveries
        self._status: Callable[[], WorkerStatus] = lambda: WorkerStatus(0, 0, ())
        self._mine: dict[tuple[str, str], Taken] = {}
        self._orphans: list[Entry] = []
        self._recover = False
        self._leaving = False
        self._unwritten: list[tuple[Job, RunResult]] = []
        self._throttle = Throttle()
        # `take` is about to write the results in the round trip in which it asks for jobs; `_write` leaves them to it.
        self._exchange_is_due = False
        # The last time there were as many jobs as there was room for; at the start, there may be.
        self._more_jobs_wait = True
        # The streams by kind, in the order in which it is their turn.
        self._turns = deque(list(streams) for streams in self._link.keys.kinds)
        self._exchange_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, status: Callable[[], WorkerStatus], on_gone: Callable[[Job], None] = lambda job: None) -> None:
        self._status, self._on_gone = status, on_gone
        await self._link.retry_for_ever(self._pulse.beat)
        self._tasks = [background(loop) for loop in (self._pulse.beat_for_ever(), self._write())]

    async def close(self) -> None:
        """Writes what is finished; what is not goes to the other workers at once."""
        if self._unwritten:
            try:
                await asyncio.wait_for(self._written.wait(), 2)
            except TimeoutError:
                logger.warning("%d results could not be written", len(self._unwritten))
        await end(self._tasks)
        await self._pulse.end()
        await self._link.close()

    async def take(self, room: Callable[[], int]) -> list[Job]:
        try:
            while True:
                self._exchange_is_due = True
                await self._throttle.turn(self._pause())
                entries = self._adopt(room()) or await self._ask(room)
                jobs = [job for entry in entries if (job := self._job(entry)) is not None]
                if jobs:
                    if begun := [entry for entry in entries if not entry.counted]:
                        count = partial(count_as_begun, streams=self._streams, worker=self.name, begun=begun)
                        await self._link.retry_for_ever(count)
                    return jobs
        finally:
            self._leave_writing()

    async def release(self, keep: Collection[Job] = ()) -> None:
        """Jobs that are not given back now are when this worker gives no sign of life any more, and then they count."""
        self._leaving = True
        uncounted = [entry for entry in self._orphans if not entry.counted]
        self._orphans.clear()
        kept = {job.ticket[:2] for job in keep} | {job.ticket[:2] for job, _ in self._unwritten}
        for place in self._mine.keys() - kept:
            del self._mine[place]
        give = partial(give_back, streams=self._streams, worker=self.name, keep=self._known(), uncounted=uncounted)
        try:
            await asyncio.wait_for(self._link.call(give), 1)
        except (TimeoutError, *LOST) as error:
            logger.debug("nothing was given back: %s", error)

    def finish(self, job: Job, result: RunResult) -> None:
        self._unwritten.append((job, result))
        self._written.clear()
        self._wake.set()

    async def _on_beat(self) -> None:
        # A reply can be lost without an error that we see.
        self._recover = True
        await self._link.call(self._gone.look)

    def _room_for_orphans(self) -> int:
        status = self._status()
        return 0 if self._leaving else status.slots - status.busy - len(self._orphans)

    def _pause(self) -> float:
        """Seconds between two round trips: none unless more jobs wait than there was room for."""
        return TRIP_SECONDS if self._more_jobs_wait else 0

    def _adopt(self, most: int) -> list[Entry]:
        entries, self._orphans = self._orphans[:most], self._orphans[most:]
        return entries

    async def _ask(self, room: Callable[[], int]) -> list[Entry]:
        try:
            return await self._link.call(lambda client: self._read(client, room()))
        except LOST as error:
            logger.warning("Redis cannot be reached (%s); trying again", error)
            self._recover = True
            await asyncio.sleep(BEAT_SECONDS / 3)
            return []

    def _leave_writing(self) -> None:
        """From now on `_write` writes the results, and no longer `take`."""
        self._exchange_is_due = False
        if self._unwritten:
            self._wake.set()

    def _job(self, entry: Entry) -> Job | None:
        stream, id_, fields, deliveries, counted = entry
        if (stream, id_) in self._mine:
            return None
        ticket = (stream, id_, fields[b"reply"], fields[b"id"])
        api = fields.get(b"api")
        try:
            job = Job(Submission.model_validate_json(fields[b"submission"]), ticket)
        except ValidationError as error:
            message = f"the worker does not understand the submission; is it of another version? {error}"
            unknown = Submission(type="python", solution="")
            job = Job(unknown, ticket)
            self._mine[stream, id_] = Taken(stream, id_, api, job)
            self.finish(job, no_verdict(unknown, Reason.INTERNAL_ERROR, message))
            return None
        self._mine[stream, id_] = Taken(stream, id_, api, job)
        if api in self._gone.dead:
            self.finish(job, no_verdict(job.submission, Reason.INTERNAL_ERROR, "the API process that took it is dead"))
            return None
        if not counted and deliveries >= self._deliveries:
            message = f"given up: each of the {deliveries} workers that ran it died"
            logger.error("submission %s %s", job.submission.sub_id, message)
            self.finish(job, no_verdict(job.submission, Reason.INTERNAL_ERROR, message))
            return None
        return job

    async def _read(self, client: Any, most: int) -> list[Entry]:
        try:
            if self._recover:
                self._recover = False
                known = [stream + id_ for stream, id_ in self._known()]
                found = await run_script(client, RECOVER, self._streams, self.name, *known)
                # Counted when they were sent to this worker.
                self._keep(found, counted=True)
                if self._orphans:
                    return []
            entries = await self._exchange(client, most) if self._unwritten or self._more_jobs_wait else []
            if not entries:
                entries = await self._wait_for_jobs(client, most)
        except redis.exceptions.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await create_groups(client, self._streams)
            self._more_jobs_wait = True
            return []
        self._more_jobs_wait = len(entries) >= most
        self._orphans += entries
        to_the_end(self._turns, entries)
        return self._adopt(most)

    async def _wait_for_jobs(self, client: Any, most: int) -> list[Entry]:
        self._leave_writing()
        half, block = (most + 1) // 2, int(BLOCK_SECONDS * 1000)
        return new_entries(
            await client.xreadgroup(GROUP, self.name, dict.fromkeys(self._streams, ">"), count=half, block=block)
        )

    def _known(self) -> set[tuple[str, str]]:
        return self._mine.keys() | {(entry.stream, entry.id) for entry in self._orphans}

    def _keep(self, found: Any, *, counted: bool) -> None:
        """Entries of RECOVER and RECLAIM, which may find the same."""
        known = self._known()
        for stream, entry, fields, deliveries in found:
            place = stream.decode(), entry.decode()
            if place not in known:
                self._orphans.append(Entry(*place, pairs(fields), deliveries, counted))

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._exchange_is_due:
                continue
            await self._throttle.turn(self._pause())
            if self._unwritten and not self._exchange_is_due:
                await self._link.retry_for_ever(lambda client: self._exchange(client, 0))

    async def _exchange(self, client: Any, most: int) -> list[Entry]:
        """Write the results that there are. Returns up to `most` new jobs."""
        async with self._exchange_lock:
            # Stays until it is known to be written; what is written twice is read once.
            batch = self._unwritten[:]
            values: list[Any] = [RESULTS_TTL, self.name, most]
            for job, result in batch:
                values += (*job.ticket, result.model_dump_json())
            if most:
                self._turns.rotate()
            jobs = await run_script(client, EXCHANGE, [*self._turns[0], *self._turns[1]], *values)
            del self._unwritten[: len(batch)]
            for job, _ in batch:
                self._mine.pop(job.ticket[:2], None)
            if not self._unwritten:
                self._written.set()
            return new_entries(jobs)
