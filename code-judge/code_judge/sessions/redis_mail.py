"""Writing to and reading from streams in Redis, as calls of sessions and their answers travel."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from code_judge.broker.redis_link import BLOCK_SECONDS, Link

T = TypeVar("T")
MOST_AT_ONCE = 64


class Outbox(Generic[T]):
    """Writes in one round trip what has come together since the last one. send: writes some of it; called again with
    the same after an error, so some of it may be written twice."""

    def __init__(self, link: Link, send: Callable[[Any, list[T]], Awaitable[object]]) -> None:
        self._link = link
        self._send = send
        self._items: list[T] = []
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()

    def put(self, item: T) -> None:
        self._items.append(item)
        self._empty.clear()
        self._arrived.set()

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._items[:MOST_AT_ONCE]
            await self._link.retry_for_ever(lambda client, batch=batch: self._send(client, batch))  # type: ignore[misc]
            del self._items[: len(batch)]
            if not self._items:
                self._arrived.clear()
                self._empty.set()

    async def flush(self, seconds: float) -> None:
        """Raises TimeoutError."""
        if self._items:
            await asyncio.wait_for(self._empty.wait(), seconds)


class Inbox:
    """Reads a stream for ever. take: called with each entry and its fields, some more than once. heard: when Redis
    answered the last time, by the loop's clock."""

    def __init__(self, link: Link, stream: str, take: Callable[[bytes, dict[bytes, bytes]], None]) -> None:
        self._link = link
        self._stream = stream
        self._take = take
        self._last: bytes | str = "0"
        self.heard = asyncio.get_running_loop().time()

    async def run(self) -> None:
        while True:
            streams = {self._stream: self._last}
            reply = await self._link.retry_for_ever(
                lambda client, streams=streams: client.xread(streams, count=512, block=int(BLOCK_SECONDS * 1000))  # type: ignore[misc]
            )
            self.heard = asyncio.get_running_loop().time()
            for _, entries in reply:
                for entry, fields in entries:
                    self._last = entry
                    self._take(entry, fields)
            if not reply:
                # A Redis that was emptied, and whose clock was set back, numbers new entries lower.
                self.rewind()

    def rewind(self) -> None:
        """Read again what is there."""
        self._last = "0"

    async def trim(self, client: Any) -> None:
        """Remove what has been read; the last one stays."""
        if self._last != "0":
            await client.xtrim(self._stream, minid=self._last)
