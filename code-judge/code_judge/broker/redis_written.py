"""Jobs that an API process has written into Redis: taking them back, and noticing that they are not there."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from code_judge.broker.redis_keys import GONE_TTL
from code_judge.broker.redis_link import Link
from code_judge.broker.redis_pending import Pending, by_stream, chunks
from code_judge.broker.redis_scripts import MISSING, WITHDRAW

MOST_AT_ONCE = 1000
"""Jobs in one call of a script. Redis does nothing else meanwhile."""


async def withdraw(link: Link, jobs: Sequence[Pending]) -> list[Pending]:
    """Returns those that nobody has taken, and from now on nobody takes. Raises one of LOST."""
    withdrawn = [job for job in jobs if job.entry is None]
    async for chunk, found in _asked(link, WITHDRAW, jobs):
        withdrawn += [job for job in chunk if job.entry in found]
    return withdrawn


async def leave(link: Link, jobs: Sequence[Pending]) -> None:
    """Nobody waits for them any longer. Those that run are stopped by their workers. Raises one of LOST."""
    left = set(jobs) - set(await withdraw(link, jobs))
    names = [job.stream + job.entry for job in left if job.entry is not None]

    async def tell(client: Any) -> None:
        pipeline = client.pipeline(transaction=False)
        pipeline.sadd(link.keys.gone, *names)
        pipeline.expire(link.keys.gone, GONE_TTL)
        await pipeline.execute()

    if names:
        await link.call(tell)


async def note_missing(link: Link, jobs: Sequence[Pending]) -> None:
    """Count in `missed` how often in a row a job was not there. Raises one of LOST."""
    async for chunk, gone in _asked(link, MISSING, jobs):
        for job in chunk:
            job.missed = job.missed + 1 if job.entry in gone else 0


async def _asked(link: Link, script: str, jobs: Sequence[Pending]) -> AsyncIterator[tuple[list[Pending], set[str]]]:
    """Some of the jobs at a time, and of their entries those that the script returns. Raises one of LOST."""
    for stream, written in by_stream(jobs).items():
        for chunk in chunks(written, MOST_AT_ONCE):
            entries = [job.entry for job in chunk]
            found = await link.call(
                lambda client, s=stream, e=entries: client.eval(script, 1, s, *e)  # type: ignore[misc]
            )
            yield chunk, {entry.decode() for entry in found}
