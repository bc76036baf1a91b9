"""Jobs as they lie in their streams in Redis."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import redis.exceptions

from code_judge.broker.redis_keys import GROUP


class Entry(NamedTuple):
    """A job as it lies in its stream. deliveries: to workers that have begun it. counted: whether this worker is among
    them already; a job that was taken over is counted when it is begun."""

    stream: str
    id: str
    fields: dict[bytes, bytes]
    deliveries: int
    counted: bool


async def create_groups(client: Any, streams: Iterable[str]) -> None:
    """Idempotent."""
    for stream in streams:
        try:
            await client.xgroup_create(stream, GROUP, "0", mkstream=True)
        except redis.exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def new_entries(reply: Any) -> list[Entry]:
    """Of a reply of XREADGROUP."""
    return [
        Entry(stream.decode(), entry.decode(), pairs(fields), 1, True)
        for stream, entries in reply
        for entry, fields in entries
        if fields
    ]


def pairs(fields: Any) -> dict[bytes, bytes]:
    """From a script they come as a flat list."""
    return fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
