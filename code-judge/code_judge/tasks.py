"""Helpers for asyncio: background tasks, a reliable way to end tasks, and a throttle for loops."""

import asyncio
import gc
import logging
import signal
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import uvloop

logger = logging.getLogger(__name__)
T = TypeVar("T")


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the faster loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def spare_the_collector() -> None:
    """Exclude all objects that exist now from garbage collection. Call it once, when the service is set up."""
    gc.collect()
    gc.freeze()


def background(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start a task that runs as long as the service. An exception in it is a bug of ours and ends the process, so that
    the process does not go on without a part of itself."""
    task = asyncio.create_task(work)
    task.add_done_callback(_check)
    return task


class Throttle:
    """Lets a loop run at most once in a given time. What comes up meanwhile is handled together in the next turn."""

    def __init__(self) -> None:
        self._last = 0.0

    async def turn(self, seconds: float) -> None:
        """Return when at least `seconds` have passed since the last turn."""
        loop = asyncio.get_running_loop()
        if (rest := self._last + seconds - loop.time()) > 0:
            await asyncio.sleep(rest)
        self._last = loop.time()


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel the tasks and wait for their end. Cancels repeatedly, because a library may swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.2)


def _check(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a part of the service has failed; ending the process", exc_info=error)
        signal.raise_signal(signal.SIGTERM)
