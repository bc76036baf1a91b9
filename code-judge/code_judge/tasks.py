"""Tasks that run for as long as the service, and ending tasks for certain."""

import asyncio
import logging
import signal
from collections.abc import Coroutine, Iterable
from typing import Any

logger = logging.getLogger(__name__)


def background(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run for ever. An exception is a bug of ours: it ends the process, instead of leaving it half alive."""
    task = asyncio.create_task(work)
    task.add_done_callback(_check)
    return task


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
