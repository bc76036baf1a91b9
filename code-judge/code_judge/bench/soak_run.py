"""The run of a soak: callers, mishaps, and what is counted meanwhile."""

import argparse
import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from code_judge.bench.http import BadStatus, Connection
from code_judge.bench.loads import LOADS
from code_judge.bench.processes import is_ours, is_zombie, memory
from code_judge.bench.soak_service import LIFE_SECONDS, LIMIT_SECONDS, Service
from code_judge.sandbox.limits import MOST_WALL
from code_judge.sandbox.link import START_SECONDS
from code_judge.wire import OUTAGES

CONCURRENCY = 16
BATCH = 4
"""Programs in a long batch."""
LATEST_SECONDS = LIFE_SECONDS + START_SECONDS + MOST_WALL * LIMIT_SECONDS + 20
"""In which every call must be answered: it waits, for a new zygote too, runs, and its worker is found to be gone."""
TROUBLE = (
    "while True: pass",
    "import os\nfor _ in range(40):\n    if os.fork() == 0:\n        while True: pass",
    "x = bytearray(1 << 34)",
    "while True: print('x' * 1000)",
    "for i in range(10**6): open(str(i), 'w').close()",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass",
    "import os; os.abort()",
)


@dataclass(slots=True)
class Tally:
    """Answers: wrong ones too; lost: of them, those that are our failure; broken: calls whose connection broke.
    longest: seconds that a call took. Mishaps: kills, restarts, failovers."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    broken: int = 0
    longest: float = 0.0
    kills: int = 0
    restarts: int = 0
    failovers: int = 0

    @property
    def mishaps(self) -> int:
        return self.kills + self.restarts + self.failovers

    def check(self) -> None:
        """Raises ValueError."""
        if self.wrong:
            raise ValueError(f"{len(self.wrong)} of {self.answers} answers were wrong, such as: {self.wrong[0]}")
        # Each mishap meets at most what is on its way.
        at_a_time = CONCURRENCY * BATCH
        if self.lost > (most := self.mishaps * at_a_time):
            raise ValueError(f"{self.lost} answers were lost, at most {most} may be: {self}")
        # A caller may meet one that is about to end, and then one that has just begun to.
        if self.broken > (most := self.restarts * 2 * CONCURRENCY):
            raise ValueError(f"{self.broken} calls broke off, at most {most} may: {self}")

    def __str__(self) -> str:
        text = f"{self.answers} answers  {len(self.wrong)} wrong"
        if mishaps := [f"{n} {name}" for name in ("kills", "restarts", "failovers") if (n := getattr(self, name))]:
            text += f"  {', '.join(mishaps)}  {self.lost} lost by them, {self.broken} broken off"
        return f"{text}  longest {self.longest:.1f} s"


class Soak:
    """fail_over: with `kill` or without."""

    def __init__(
        self, service: Service, options: argparse.Namespace, fail_over: Callable[..., Awaitable[None]] | None
    ) -> None:
        self._service = service
        self._options = options
        self._fail_over = fail_over
        self._start = 0.0
        self._numbers = itertools.count()
        self._choice = random.Random(0)
        self._tally = Tally()
        self._sizes: list[int] = []

    async def run(self) -> list[int]:
        """The memory at each look, in bytes. Raises ValueError."""
        options = self._options
        await self._await_service()
        mishaps = [
            self._every(options.kill_every, self._kill),
            self._every(options.restart_api_every, self._restart),
            self._every(options.failover_every, self._change_primary),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._watch(), *mishaps, *(self._call(number) for number in range(CONCURRENCY))):
                    group.create_task(work)
        except* ValueError as errors:
            raise ValueError(str(errors.exceptions[0])) from errors
        # What ran for longest has ended by now, and idle memory is compared with idle memory.
        await asyncio.sleep(1)
        self._sizes.append(self._memory())
        print(self._tally)
        self._tally.check()
        if zombies := [pid for pid in self._service.tree() if is_zombie(pid)]:
            raise ValueError(f"zombies: {zombies}")
        return self._sizes

    async def _await_service(self) -> None:
        """The soak's time begins when the service runs programs: a kill before would keep it from starting. Raises
        ValueError."""
        for url in self._service.urls:
            connection = Connection(url)
            try:
                await _post(connection, [{"type": "python", "solution": ""}])
            except (OSError, asyncio.IncompleteReadError) as error:
                raise ValueError(f"the service did not start; see what it has said: {error}") from error
            finally:
                connection.close()
        self._start = time.monotonic()

    def _left(self) -> float:
        seconds: float = self._options.seconds
        return self._start + seconds - time.monotonic()

    # ---- load ------------------------------------------------------------------------------------------------------

    async def _call(self, number: int) -> None:
        choice, place, connection = random.Random(number), number, None
        while self._left() > 0:
            if connection is None:
                connection = Connection(self._service.urls[place % len(self._service.urls)])
            batch = choice.choice((1, BATCH))
            programs = [self._program(choice) for _ in range(batch)]
            submissions = [
                {"type": "python", "solution": source, "expected_output": expected, "sub_id": f"{number}-{n}"}
                for n, (source, expected) in enumerate(programs)
            ]
            begin = time.monotonic()
            try:
                async with asyncio.timeout(LATEST_SECONDS):
                    results = await _post(connection, submissions)
            except TimeoutError:
                raise ValueError(f"a call was not answered within {LATEST_SECONDS:g} s; {self._tally}") from None
            except ConnectionRefusedError:
                results = None
            except BadStatus as error:
                if error.status != 503:
                    raise ValueError(f"the service failed: {error}") from error
                self._tally.answers += batch
                self._tally.lost += batch
                continue
            except (OSError, asyncio.IncompleteReadError):
                self._tally.broken += 1
                results = None
            if results is None:
                # The other API process, as a client behind a balancer reaches it.
                connection.close()
                connection, place = None, place + 1
                await asyncio.sleep(0.1)
                continue
            self._tally.longest = max(self._tally.longest, time.monotonic() - begin)
            for submission, result in itertools.zip_longest(submissions, results):
                self._count(submission, result)
        if connection is not None:
            connection.close()

    def _program(self, choice: random.Random) -> tuple[str, str | None]:
        """And what it prints; None for a hostile one."""
        if choice.random() < 0.02:
            return choice.choice(TROUBLE), None
        return choice.choice(LOADS[:3]).make(next(self._numbers))

    def _count(self, submission: dict[str, Any], result: dict[str, Any]) -> None:
        tally = self._tally
        tally.answers += 1
        if result["sub_id"] != submission["sub_id"]:
            tally.wrong.append(f"{result} for {submission}")
        elif submission["expected_output"] is None or result["success"]:
            pass
        elif tally.mishaps and result["reason"] in OUTAGES:
            tally.lost += 1
        else:
            tally.wrong.append(f"{result} for {submission}")

    # ---- mishaps ---------------------------------------------------------------------------------------------------

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while seconds and self._left() > seconds:
            await asyncio.sleep(seconds)
            await act()

    async def _kill(self) -> None:
        if victims := [pid for pid in self._service.tree() if is_ours(pid)]:
            self._tally.kills += 1
            with suppress(ProcessLookupError):
                os.kill(self._choice.choice(victims), signal.SIGKILL)

    async def _restart(self) -> None:
        number = self._tally.restarts
        self._tally.restarts += 1
        # Each of the two in both ways.
        await asyncio.to_thread(self._service.restart, self._service.apis[number % 2], kill=number // 2 % 2 == 0)

    async def _change_primary(self) -> None:
        assert self._fail_over is not None
        number = self._tally.failovers
        self._tally.failovers += 1
        await self._fail_over(kill=number % 2 == 0)

    async def _watch(self) -> None:
        while self._left() > 0:
            await asyncio.sleep(self._options.every)
            self._sizes.append(self._memory())
            zombies = sum(is_zombie(process) for process in self._service.tree())
            seconds = time.monotonic() - self._start
            print(f"{seconds:6.0f} s  {self._tally}  {self._sizes[-1] >> 20} MB  {zombies} zombies", flush=True)

    def _memory(self) -> int:
        return sum(memory(process) for process in self._service.tree())


async def _post(connection: Connection, submissions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(submissions) == 1:
        return [await connection.post("/judge", submissions[0])]
    reply = await connection.post("/judge/long-batch", {"type": "batch", "submissions": submissions})
    return list(reply["results"])
