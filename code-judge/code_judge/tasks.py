"""Tasks that run for as long as the service, ending tasks for certain, and a pace that lets work come together."""

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
    """Call once all is set up: what is there stays, and the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


def background(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run for ever. An exception is a bug of ours: it ends the process, instead of leaving it half alive."""
    task = asyncio.create_task(work)
    task.add_done_callback(_check)
    return task


class Pace:
    """Turns some time apart, so that what comes up meanwhile shares the next."""

    def __init__(self) -> None:
        self._last = 0.0

    async def turn(self, seconds: float) -> None:
        """Come back at least `seconds` after the last turn."""
        loop = asyncio.get_running_loop()
        if (rest := self._last + seconds - loop.time()) > 0:
            await asyncio.sleep(rest)
        self._last = loop.time()


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel until they have ended: a library below may lose a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.2)


def _check(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a part of the service has failed; ending the process", exc_info=error)
        signal.raise_signal(signal.SIGTERM)
