"""Worker processes on a queue in Redis: as many as the host's cores need, with their shares of the slots and sessions.

One process serves a few cores; its own work would take a core of its own otherwise. One that ends is started again.
"""

import asyncio
import ctypes
import logging
import multiprocessing.connection
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess

from code_judge.broker.redis_worker import RedisSource
from code_judge.sessions.setup import Held
from code_judge.settings import Settings, cores, load_settings
from code_judge.tasks import run_loop, spare_the_collector
from code_judge.worker import Worker

logger = logging.getLogger(__name__)

CORES_PER_PROCESS = 4
RESTART_SECONDS = 1.0
REFUSED = 78
"""Exit status of a worker that cannot start with these settings on this host. Another one could not either."""
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Raises ValueError for settings that do not fit, or ask for more than the host gives."""
    settings = load_settings()
    if settings.redis_uri is None:
        raise ValueError("workers take their work from Redis: set REDIS_URI, or use `code-judge serve` without Redis")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # No process without a slot.
    count = min(settings.max_workers, max(1, cores() // CORES_PER_PROCESS))
    shares = list(zip(split(settings.max_workers, count), split(settings.max_sessions, count), strict=True))
    context = multiprocessing.get_context("spawn")

    def start(share: tuple[int, int]) -> BaseProcess:
        slots, sessions = share
        own = settings.model_copy(update={"max_workers": slots, "max_sessions": sessions})
        process = context.Process(target=work, args=(own, os.getpid()))
        process.start()
        return process

    processes = {start(share): share for share in shares}
    stop = refused = False

    def end(*_: object) -> None:
        nonlocal stop
        stop = True
        for process in processes:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    while processes:
        multiprocessing.connection.wait([process.sentinel for process in processes])
        for process in [process for process in processes if not process.is_alive()]:
            share = processes.pop(process)
            if process.exitcode == REFUSED:
                refused = True
                end()
            if not stop:
                logger.error("a worker process ended with status %s; starting another", process.exitcode)
                time.sleep(RESTART_SECONDS)
            if not stop:
                processes[another := start(share)] = share
                if stop:
                    # Told to end while it started: `end` did not see it.
                    another.terminate()
    if refused:
        raise ValueError("a worker refused to start; it has said why")


def split(number: int, processes: int) -> list[int]:
    """The share of each process."""
    return [number // processes + (place < number % processes) for place in range(processes)]


def work(settings: Settings, supervisor: int) -> None:
    """Run one worker until SIGTERM, which lets it finish what it runs. The kernel sends it when the supervisor dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        run_loop(_work(settings))
    except ValueError as error:
        logger.error("%s", error)
        sys.exit(REFUSED)


async def _work(settings: Settings) -> None:
    assert settings.redis_uri is not None
    source = RedisSource(settings.redis_uri, prefix=settings.redis_key_prefix, deliveries=settings.max_deliveries)
    worker = Worker(source, settings)
    held = Held(settings, worker.admitted)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await worker.start()
    await held.start()
    spare_the_collector()
    logger.info("%d slots, isolation: %s", settings.max_workers, ", ".join(worker.status().isolation) or "none")
    await ended.wait()
    await asyncio.gather(worker.drain(), held.drain())
    await held.stop()
    await worker.stop()
