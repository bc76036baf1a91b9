"""Parts of the service that run for ever."""

import asyncio
import signal

from code_judge.tasks import Throttle, background, end


async def test_a_part_that_fails_ends_the_process() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    async def fails() -> None:
        raise RuntimeError("bug")

    try:
        background(fails())
        await asyncio.wait_for(told.wait(), 10)
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def test_a_lost_cancellation_is_repeated() -> None:
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await end([task])
    assert (lost, task.cancelled()) == (3, True)


async def test_turns_are_apart_and_the_first_is_at_once() -> None:
    throttle, clock = Throttle(), asyncio.get_running_loop().time
    await asyncio.wait_for(throttle.turn(60), 5)
    start = clock()
    await throttle.turn(0.05)
    await throttle.turn(0.05)
    assert clock() - start > 0.09
    await asyncio.wait_for(throttle.turn(0), 5)
