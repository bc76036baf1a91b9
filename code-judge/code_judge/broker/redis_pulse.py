"""A worker's sign of life in Redis, and the jobs of workers that give none.

A worker without a sign of life for WORKER_TTL seconds loses its jobs to the others.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from code_judge.broker import WorkerStatus
from code_judge.broker.redis_keys import WORKER_TTL
from code_judge.broker.redis_link import LOST, Link, run_script
from code_judge.broker.redis_scripts import RECLAIM

logger = logging.getLogger(__name__)

BEAT_SECONDS = WORKER_TTL / 5


class Pulse:
    """name: the worker's. status: what it does now. on_beat: awaited with every sign of life. wanted: how many jobs it
    can take over. on_found: called with what RECLAIM returns."""

    def __init__(
        self,
        link: Link,
        name: str,
        *,
        status: Callable[[], WorkerStatus],
        on_beat: Callable[[], Awaitable[None]],
        wanted: Callable[[], int],
        on_found: Callable[[Any], None],
    ) -> None:
        self._link = link
        self._name = name
        self._status = status
        self._on_beat = on_beat
        self._wanted = wanted
        self._on_found = on_found

    async def beat_for_ever(self) -> None:
        loop, claims_from = asyncio.get_running_loop(), 0.0
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._link.call(self.beat)
                await self._on_beat()
                if (room := self._wanted()) > 0 and loop.time() >= claims_from:
                    await self._link.call(lambda client, room=room: self._reclaim(client, room))  # type: ignore[misc]
            except LOST as error:
                logger.debug("Redis cannot be reached: %s", error)
                # The others could not give a sign of life either.
                claims_from = loop.time() + WORKER_TTL

    async def beat(self, client: Any) -> None:
        keys, pipeline = self._link.keys, client.pipeline(transaction=False)
        pipeline.sadd(keys.workers, self._name)
        pipeline.set(keys.worker + self._name, json.dumps(asdict(self._status())), px=int(WORKER_TTL * 1000))
        await pipeline.execute()

    async def end(self) -> None:
        """No sign of life any more: what is left goes to the others at once. Best effort."""
        try:
            await asyncio.wait_for(
                self._link.call(lambda client: client.delete(self._link.keys.worker + self._name)), 1
            )
        except (TimeoutError, *LOST):
            pass

    async def _reclaim(self, client: Any, room: int) -> None:
        keys = self._link.keys
        entries = await run_script(client, RECLAIM, keys.streams, keys.worker, self._name, room)
        for _, id_, _, deliveries in entries:
            logger.warning("taking over %s, which %d workers that are gone had begun", id_.decode(), deliveries)
        self._on_found(entries)
