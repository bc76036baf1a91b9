"""`code-judge soak`: a service of its own under full load for a long time; nothing may grow and nothing may be left.

The load is a mix of everything, hostile programs too. Every few seconds: right answers, memory of all its processes
together (shared pages counted once), zombies. Fails if an answer is wrong, missing or late, if the memory at the end is
more than GROWTH times that of the first tenth, or if a zombie, a process, a folder or a job in Redis is left.

With --redis-uri it is an API and workers of their own, as run on many hosts. Meanwhile, again and again:

--kill-every         a process of ours is killed: a worker, or a keeper, zygote or template
--restart-api-every  one of two API processes is started anew, after SIGKILL and after SIGTERM in turns
--failover-every     the primary of a Redis of the soak's own is killed, or told to become a replica, in turns. Half of
                     the service finds the new one by Sentinel, the other half at a plain address that now leads there

Then calls may break that were with that API process, what ran or waited there may be answered as our failure, and
nothing else may change. How many that may be is bounded by the number of mishaps.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from code_judge.bench.processes import still_there
from code_judge.bench.soak_run import Soak
from code_judge.bench.soak_service import Service
from code_judge.settings import load_settings

GROWTH = 1.25
STARTED_BYTES = 64 << 20
"""That a mishap may have spared in the first half: of a zygote that was not there."""
LEAVE_SECONDS = 5.0
"""Python's own resource tracker ends a moment after the workers that it serves."""
DROP_SECONDS = 40.0
"""In which jobs are dropped whose API process was killed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=900, help="how long (default: 900)")
    parser.add_argument("--every", type=float, default=10, help="seconds between two lines (default: 10)")
    parser.add_argument("--redis-uri", help="queue the work there, with workers in processes of their own")
    for name, what in (
        ("kill", "kills of a worker or a part of a zygote"),
        ("restart-api", "restarts of an API process; needs a Redis"),
        ("failover", "changes of the primary, in a Redis of the soak's own"),
    ):
        parser.add_argument(f"--{name}-every", type=float, default=0, help=f"seconds between {what} (default: none)")


def main(options: argparse.Namespace) -> None:
    """Raises ValueError naming what is wrong, has grown or is left."""
    if options.failover_every and options.redis_uri:
        raise ValueError("--failover-every starts its own Redis: leave --redis-uri out")
    if options.restart_api_every and not (options.redis_uri or options.failover_every):
        raise ValueError("--restart-api-every needs --redis-uri, or --failover-every: without Redis, the API is all")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        asyncio.run(_with_redis(options, Path(folder)))


async def _with_redis(options: argparse.Namespace, folder: Path) -> None:
    uri = options.redis_uri
    if not options.failover_every:
        await _with_service(options, folder, [uri], None)
        return
    # Imported where it is used: a service without Redis starts without it.
    from code_judge.bench.soak_redis import Pair

    (redis := folder / "redis").mkdir()
    pair = Pair(redis)
    try:
        pair.start()
        await pair.serve()
        await _with_service(options, folder, [pair.by_sentinel, pair.by_address], pair.fail_over)
    finally:
        await pair.stop()
        pair.kill()


async def _with_service(
    options: argparse.Namespace,
    folder: Path,
    uris: list[str | None],
    fail_over: Callable[..., Awaitable[None]] | None,
) -> None:
    (temporary := folder / "service").mkdir()
    several = options.restart_api_every or options.failover_every
    service = Service(temporary, uris, apis=2 if several else 1)
    try:
        sizes = await Soak(service, options, fail_over).run()
        if uris[0] is not None:
            await _await_empty(uris[0])
        below = service.tree()
    finally:
        await asyncio.to_thread(service.stop)
    left = await asyncio.to_thread(still_there, below, LEAVE_SECONDS)
    # What was just killed or started has no memory, so with mishaps the first tenth says too little.
    mishaps = several or options.kill_every
    start, end = max(sizes[: max(2, len(sizes) // (2 if mishaps else 10))]), sizes[-1]
    if end > max(GROWTH * start, start + (STARTED_BYTES if mishaps else 0)):
        raise ValueError(f"memory grew from {start >> 20} MB to {end >> 20} MB")
    if left or (folders := os.listdir(temporary)):
        raise ValueError(f"left behind: processes {left}, folders {folders}")
    print(f"flat: {start >> 20} MB at the beginning, {end >> 20} MB at the end; no process, zombie or folder left")


async def _await_empty(uri: str) -> None:
    """Jobs that were answered are gone at once, those of a killed API process soon. Raises ValueError."""
    from code_judge.broker.redis_keys import Keys
    from code_judge.broker.redis_link import Link

    keys = Keys(load_settings().redis_key_prefix)
    link, latest = Link(uri, keys), time.monotonic() + DROP_SECONDS

    async def lengths(client: Any) -> list[int]:
        return [await client.xlen(stream) for stream in keys.streams]

    try:
        while left := sum(await link.call(lengths)):
            if time.monotonic() > latest:
                raise ValueError(f"{left} jobs are left in Redis")
            await asyncio.sleep(0.5)
    finally:
        await link.close()
