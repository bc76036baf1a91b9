"""Whether programs can be run now, found out by running one."""

import asyncio
import time
from collections.abc import Awaitable, Callable

FRESH_SECONDS = 1.0
"""An answer is used again for this long, so that frequent questions cost nothing."""
PROBE_SECONDS = 4.0
"""A program that has no answer after this long counts as not run. Less than what clients wait for /ping."""
SOURCE = "print('well')"
OUTPUT = "well\n"


class NotReady(Exception):
    """No program can be run."""


class Probe:
    """run: runs SOURCE and returns its output; raises an exception if it cannot be run."""

    def __init__(self, run: Callable[[], Awaitable[str]]) -> None:
        self._run = run
        self._last = 0.0
        self._running: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raises NotReady. Callers at the same time share one program."""
        if time.monotonic() - self._last < FRESH_SECONDS:
            return
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._check())
        await asyncio.shield(self._running)

    async def _check(self) -> None:
        try:
            output = await asyncio.wait_for(self._run(), PROBE_SECONDS)
        except TimeoutError:
            raise NotReady(f"a program that prints one word was not run in {PROBE_SECONDS:g} s") from None
        except Exception as error:
            raise NotReady(f"no program can be run: {error}") from error
        if output != OUTPUT:
            raise NotReady(f"a program that prints {OUTPUT!r} printed {output!r}")
        self._last = time.monotonic()
