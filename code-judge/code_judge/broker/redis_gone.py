"""A worker's jobs that nobody waits for any more: their client went away, or the API process that took them is dead."""

import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from code_judge.broker import Job
from code_judge.broker.redis_keys import Keys

GRACE_SECONDS = 5.0
"""A sign of life may be missing for so long: where Redis has lost its data, live processes give another one soon."""


class Taken(NamedTuple):
    """A job that this worker has, as it lies in Redis. api: key of the sign of life of the API process that waits for
    it; none if that process is of a version without it."""

    stream: str
    entry: str
    api: bytes | None
    job: Job


class Gone:
    """on_gone: called with each such job, maybe more than once. dead: keys of API processes without a sign of life."""

    def __init__(self, keys: Keys, *, taken: Callable[[], Collection[Taken]], on_gone: Callable[[Job], None]) -> None:
        self.dead: frozenset[bytes] = frozenset()
        self._missing: dict[bytes, float] = {}
        self._keys = keys
        self._taken = taken
        self._on_gone = on_gone

    async def look(self, client: Any) -> None:
        """Raises one of LOST."""
        taken = list(self._taken())
        apis = sorted({one.api for one in taken if one.api is not None} | self._missing.keys())
        if not taken and not apis:
            return
        pipeline = client.pipeline(transaction=False)
        for one in taken:
            pipeline.sismember(self._keys.gone, one.stream + one.entry)
        for api in apis:
            pipeline.exists(api)
        replies = await pipeline.execute()
        now = time.monotonic()
        missing = [api for api, alive in zip(apis, replies[len(taken) :], strict=True) if not alive]
        self._missing = {api: self._missing.get(api, now) for api in missing}
        self.dead = frozenset(api for api, since in self._missing.items() if now - since >= GRACE_SECONDS)
        for one, left in zip(taken, replies[: len(taken)], strict=True):
            if left or one.api in self.dead:
                self._on_gone(one.job)
