"""The taking side of the queue in Redis, one a worker.

A job stays this worker's until its result is written. A worker without a sign of life for WORKER_TTL seconds loses its
jobs to the others. A job that was running in `deliveries` workers when they died may be what kills them, or it may have
run beside what does: it is given up, and answered as our failure. Results are written in the round trip that asks for
the next jobs, if one is due.
"""

import asyncio
import json
import logging
import os
import socket
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import redis.exceptions
from pydantic import ValidationError

from code_judge.broker import Job, WorkerStatus, no_verdict
from code_judge.broker.redis_entries import Entry, create_groups, new_entries, pairs
from code_judge.broker.redis_keys import (
    BEGIN,
    EXCHANGE,
    GROUP,
    RECLAIM,
    RECOVER,
    RELEASE,
    RESULTS_TTL,
    STREAMS,
    WORKER,
    WORKER_TTL,
    WORKERS,
)
from code_judge.broker.redis_link import BLOCK_SECONDS, LOST, TRIP_SECONDS, Link, run_script
from code_judge.tasks import Throttle, background, end
from code_judge.wire import Reason, RunResult, Submission

logger = logging.getLogger(__name__)

BEAT_SECONDS = WORKER_TTL / 5


class RedisSource:
    def __init__(self, uri: str, *, deliveries: int) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._link = Link(uri)
        self._deliveries = deliveries
        self._status: Callable[[], WorkerStatus] = lambda: WorkerStatus(0, 0, ())
        self._mine: set[tuple[str, str]] = set()
        self._orphans: list[Entry] = []
        self._recover = False
        self._leaving = False
        self._unwritten: list[tuple[Job, RunResult]] = []
        self._throttle = Throttle()
        # `take` is about to write the results in the round trip in which it asks for jobs; `_write` leaves them to it.
        self._exchange_is_due = False
        # The last time there were as many jobs as there was room for.
        self._more_jobs_wait = False
        self._turns = deque(STREAMS)
        self._exchange_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, status: Callable[[], WorkerStatus]) -> None:
        self._status = status
        await self._link.retry_for_ever(self._beat_once)
        self._tasks = [background(loop) for loop in (self._beat(), self._write())]

    async def close(self) -> None:
        """Writes what is finished; what is not goes to the other workers at once."""
        if self._unwritten:
            try:
                await asyncio.wait_for(self._written.wait(), 2)
            except TimeoutError:
                logger.warning("%d results could not be written", len(self._unwritten))
        await end(self._tasks)
        try:
            await asyncio.wait_for(self._link.call(lambda client: client.delete(WORKER + self.name)), 1)
        except (TimeoutError, *LOST):
            pass
        await self._link.close()

    async def take(self, room: Callable[[], int]) -> list[Job]:
        try:
            while True:
                self._exchange_is_due = True
                await self._throttle.turn(self._pause())
                entries = self._adopt(room()) or await self._ask(room)
                jobs = [job for entry in entries if (job := self._job(entry)) is not None]
                if jobs:
                    await self._count([entry for entry in entries if not entry.counted])
                    return jobs
        finally:
            self._leave_writing()

    async def _count(self, begun: list[Entry]) -> None:
        """Note that jobs which were taken over are begun by this worker, and may be what ends it."""

        async def count(client: Any) -> None:
            for stream in STREAMS:
                mine = [entry for entry in begun if entry.stream == stream]
                values = [value for entry in mine for value in (entry.id, entry.deliveries + 1)]
                if values:
                    await run_script(client, BEGIN, [stream], self.name, *values)

        if begun:
            await self._link.retry_for_ever(count)

    async def release(self) -> None:
        """Take no more; what was taken and `take` has not returned goes to the other workers."""
        self._leaving = True
        uncounted = [entry for entry in self._orphans if not entry.counted]
        self._orphans.clear()

        async def give_back(client: Any) -> None:
            for stream in STREAMS:
                keeps, others = self._known(stream), [entry.id for entry in uncounted if entry.stream == stream]
                await run_script(client, RELEASE, [stream], self.name, len(keeps), *keeps, *others)

        try:
            await asyncio.wait_for(self._link.call(give_back), 1)
        except (TimeoutError, *LOST) as error:
            logger.debug("nothing was given back: %s", error)

    def finish(self, job: Job, result: RunResult) -> None:
        self._unwritten.append((job, result))
        self._written.clear()
        self._wake.set()

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
        self._mine.add((stream, id_))
        try:
            job = Job(Submission.model_validate_json(fields[b"submission"]), ticket)
        except ValidationError as error:
            message = f"the worker does not understand the submission; is it of another version? {error}"
            unknown = Submission(type="python", solution="")
            self.finish(Job(unknown, ticket), no_verdict(unknown, Reason.INTERNAL_ERROR, message))
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
                for stream in STREAMS:
                    found = await run_script(client, RECOVER, [stream], self.name, *self._known(stream))
                    # Counted when they were sent to this worker.
                    self._keep(stream, found, counted=True)
                if self._orphans:
                    return []
            entries = await self._exchange(client, most) if self._unwritten or self._more_jobs_wait else []
            if not entries:
                entries = await self._wait_for_jobs(client, most)
        except redis.exceptions.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await create_groups(client)
            return []
        self._more_jobs_wait = len(entries) >= most
        self._orphans += entries
        return self._adopt(most)

    async def _wait_for_jobs(self, client: Any, most: int) -> list[Entry]:
        self._leave_writing()
        half, block = (most + 1) // 2, int(BLOCK_SECONDS * 1000)
        return new_entries(
            await client.xreadgroup(GROUP, self.name, dict.fromkeys(STREAMS, ">"), count=half, block=block)
        )

    def _known(self, stream: str) -> list[str]:
        places = self._mine | {(entry.stream, entry.id) for entry in self._orphans}
        return [id_ for of, id_ in places if of == stream]

    def _keep(self, stream: str, found: Any, *, counted: bool) -> None:
        """Entries of RECOVER and RECLAIM, which may find the same."""
        known = set(self._known(stream))
        for entry, fields, deliveries in found:
            if (id_ := entry.decode()) not in known:
                self._orphans.append(Entry(stream, id_, pairs(fields), deliveries, counted))

    async def _beat(self) -> None:
        loop, claims_from = asyncio.get_running_loop(), 0.0
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            # A reply can be lost without an error that we see.
            self._recover = True
            try:
                await self._link.call(self._beat_once)
                status = self._status()
                room = status.slots - status.busy - len(self._orphans)
                if room > 0 and not self._leaving and loop.time() >= claims_from:
                    await self._link.call(lambda client, room=room: self._reclaim(client, room))  # type: ignore[misc]
            except LOST as error:
                logger.debug("Redis cannot be reached: %s", error)
                # The others could not give a sign of life either.
                claims_from = loop.time() + WORKER_TTL

    async def _beat_once(self, client: Any) -> None:
        pipeline = client.pipeline(transaction=False)
        pipeline.sadd(WORKERS, self.name)
        pipeline.set(WORKER + self.name, json.dumps(asdict(self._status())), px=int(WORKER_TTL * 1000))
        await pipeline.execute()

    async def _reclaim(self, client: Any, room: int) -> None:
        for stream in STREAMS:
            try:
                entries = await client.eval(RECLAIM, 1, stream, WORKER, self.name, room)
            except redis.exceptions.ResponseError as error:
                # Nobody has created the stream or the group yet.
                if "NOGROUP" not in str(error) and "no such key" not in str(error):
                    raise
                continue
            for id_, _, deliveries in entries:
                logger.warning("taking over %s, which %d workers that are gone had begun", id_.decode(), deliveries)
            self._keep(stream, entries, counted=False)

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
            jobs = await run_script(client, EXCHANGE, self._turns, *values)
            del self._unwritten[: len(batch)]
            self._mine -= {job.ticket[:2] for job, _ in batch}
            if not self._unwritten:
                self._written.set()
            return new_entries(jobs)
