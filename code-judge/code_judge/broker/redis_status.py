"""What an API process asks Redis about the service, and adds to its totals."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from code_judge.broker import BrokerLost, Status, WorkerStatus
from code_judge.broker.redis_keys import API_TTL, GROUP
from code_judge.broker.redis_link import LOST, Link
from code_judge.broker.redis_scripts import STATUSES

_SECONDS = 2


async def read_status(link: Link) -> Status:
    """Raises BrokerLost."""
    try:
        return await asyncio.wait_for(link.call(lambda client: _ask(client, link)), _SECONDS)
    except (TimeoutError, *LOST) as error:
        raise BrokerLost(f"Redis cannot be reached: {error}") from error


async def beat_and_count(link: Link, alive: str) -> int:
    """Give this process's sign of life. Returns the number of jobs in the queue or running. Raises one of LOST."""

    async def ask(client: Any) -> int:
        pipeline = client.pipeline(transaction=False)
        pipeline.set(alive, 1, px=int(API_TTL * 1000))
        for stream in link.keys.streams:
            pipeline.xlen(stream)
        _, *counts = await pipeline.execute()
        return sum(counts)

    return await link.call(ask)


async def add_samples(link: Link, samples: Mapping[str, float]) -> None:
    """Raises one of LOST."""

    async def add(client: Any) -> None:
        pipeline = client.pipeline(transaction=False)
        for name, value in samples.items():
            pipeline.hincrbyfloat(link.keys.totals, name, value)
        await pipeline.execute()

    if samples:
        await link.call(add)


async def _ask(client: Any, link: Link) -> Status:
    keys = link.keys
    pipeline = client.pipeline(transaction=False)
    for stream in keys.streams:
        pipeline.xlen(stream)
        pipeline.execute_command("XPENDING", stream, GROUP)
    pipeline.eval(STATUSES, 1, keys.workers, keys.worker)
    pipeline.hgetall(keys.totals)
    *counts, workers, totals = await pipeline.execute(raise_on_error=False)
    for reply in (*counts, workers, totals):
        # No group: no worker has been there yet.
        if isinstance(reply, LOST) and "NOGROUP" not in str(reply):
            raise reply
    queued = sum(n for n in counts[::2] if isinstance(n, int))
    taken = sum(_pending_count(reply) for reply in counts[1::2])
    return Status(
        max(0, queued - taken),
        tuple(_worker_status(worker) for worker in workers),
        {name.decode(): float(value) for name, value in totals.items()},
    )


def _pending_count(reply: Any) -> int:
    """Of XPENDING's summary; an error where no worker has created the group yet."""
    return int(reply["pending"] if isinstance(reply, dict) else reply[0]) if not isinstance(reply, Exception) else 0


def _worker_status(data: bytes) -> WorkerStatus:
    status = json.loads(data)
    return WorkerStatus(status["slots"], status["busy"], tuple(status["isolation"]))
