"""Jobs as they lie in their streams in Redis."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import redis.exceptions

from code_judge.broker.redis_keys import GROUP
from code_judge.broker.redis_link import run_script
from code_judge.broker.redis_scripts import BEGIN, RELEASE


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


async def count_as_begun(client: Any, streams: Iterable[str], worker: str, begun: Sequence[Entry]) -> None:
    """Note that jobs which were taken over are begun by this worker, and may be what ends it."""
    for stream in streams:
        mine = [entry for entry in begun if entry.stream == stream]
        values = [value for entry in mine for value in (entry.id, entry.deliveries + 1)]
        if values:
            await run_script(client, BEGIN, [stream], worker, *values)


async def give_back(
    client: Any,
    streams: Iterable[str],
    worker: str,
    *,
    keep: Collection[tuple[str, str]],
    uncounted: Sequence[Entry],
) -> None:
    """What the worker has goes to the others, but for those to `keep`. uncounted: those that it has not begun."""
    for stream in streams:
        keeps = [id_ for of, id_ in keep if of == stream]
        others = [entry.id for entry in uncounted if entry.stream == stream]
        await run_script(client, RELEASE, [stream], worker, len(keeps), *keeps, *others)


def to_the_end(turns: Iterable[list[str]], served: Iterable[Entry]) -> None:
    """Streams that were served have their next turn after the others of their kind."""
    for stream in {entry.stream for entry in served}:
        for streams in turns:
            if stream in streams:
                streams.remove(stream)
                streams.append(stream)


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
