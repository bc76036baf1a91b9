"""Clients take turns: one that has many programs does not hold up the others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from judge_harness import judge
from redis_harness import api, needs_redis, redis_server, workers
from test_redis_trips import both_sides, result, submissions

from code_judge.asgi import Refused
from code_judge.broker import Broker, Source, WorkerStatus
from code_judge.broker.clients import Counts, Line
from code_judge.broker.memory import MemoryBroker
from code_judge.broker.redis_keys import LANES
from code_judge.client import headers
from code_judge.gate import Gate, check_queue
from code_judge.settings import Settings

Sides = Callable[[], AbstractAsyncContextManager[tuple[Broker, Source]]]
HELLO = {"type": "python", "solution": "print('hello')"}


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> Sides:
    @asynccontextmanager
    async def memory() -> AsyncIterator[tuple[Broker, Source]]:
        it = MemoryBroker()
        await it.open(lambda: WorkerStatus(4, 0, ()))
        yield it, it

    @asynccontextmanager
    async def redis() -> AsyncIterator[tuple[Broker, Source]]:
        with redis_server(tmp_path) as server:
            async with both_sides(server) as both:
                yield both

    return memory if request.param == "memory" else redis


async def queue(broker: Broker, *jobs: tuple[str, int, bool]) -> list[asyncio.Task[Any]]:
    """One call after the other, each with the client, how many programs it has, and whether they are a long batch."""
    calls, total = [], 0
    for client, count, long in jobs:
        work = broker.submit(submissions(client, count), life_time=600, long=long, client=client)
        calls.append(asyncio.create_task(work))
        total += count
        await until_queued(broker, lambda queued, total=total: queued >= total)
    return calls


async def until_queued(broker: Broker, condition: Callable[[int], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition((await broker.status()).queued):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def take(source: Source, count: int, *, room: int = 1) -> list[str]:
    """Whose programs came, in order; each ends at once."""
    clients: list[str] = []
    while len(clients) < count:
        jobs = await asyncio.wait_for(source.take(lambda: room), 10)
        clients += [job.submission.solution.split()[0] for job in jobs]
        for job in jobs:
            source.finish(job, result(job))
    return clients


@pytest.mark.parametrize("room", [1, 3, 6])
@pytest.mark.parametrize("long", [False, True])
async def test_clients_take_turns_within_a_kind(sides: Sides, long: bool, room: int) -> None:
    async with sides() as (broker, source):
        calls = await queue(broker, ("hog", 300, long), ("a", 20, long), ("b", 10, long), ("c", 1, long))
        taken = await take(source, 331, room=room)
        # A turn is one program of each, the order within `room` aside.
        assert "c" in taken[: 4 + room]
        assert abs(taken[:43].count("b") - 10) <= room
        assert abs(taken[:65].count("a") - 20) <= room
        assert taken[-200:] == ["hog"] * 200
        assert [len(await call) for call in calls] == [300, 20, 10, 1]


async def test_each_client_gets_its_own_results_in_order(sides: Sides) -> None:
    async with sides() as (broker, source):
        calls = await queue(broker, *((f"c{i}", 5, i % 2 == 0) for i in range(12)))
        await take(source, 60, room=4)
        for i, call in enumerate(calls):
            assert [one.stderr for one in await call] == [f"ran c{i} {n}" for n in range(5)]


async def test_kinds_and_clients_take_turns_together(sides: Sides) -> None:
    """A client with many long batches does not hold up another's, nor any single program."""
    async with sides() as (broker, source):
        calls = await queue(broker, ("hog", 200, True), ("hog", 200, False), ("long", 10, True), ("single", 10, False))
        taken = await take(source, 420)
        assert {taken[:48].count(name) for name in ("long", "single")} == {10}
        await asyncio.gather(*calls)


async def test_what_a_client_leaves_is_nobodys_turn(sides: Sides) -> None:
    async with sides() as (broker, source):
        hog, other = await queue(broker, ("hog", 500, False), ("other", 3, False))
        hog.cancel()
        await until_queued(broker, lambda queued: queued == 3)
        assert await asyncio.wait_for(take(source, 3), 10) == ["other"] * 3
        assert len(await other) == 3
        assert (broker.waiting_of("hog"), broker.waiting_of("other"), broker.waiting()) == (0, 0, 0)


@needs_redis
async def test_more_clients_than_streams_fill_no_streams_of_others(tmp_path: Path) -> None:
    """All streams are in use when one comes with many programs. It fills two of them, and keys do not become more."""
    with redis_server(tmp_path) as server:
        async with both_sides(server) as (broker, source):
            first = [(f"first{i}", 2, False) for i in range(LANES)]
            calls = await queue(
                broker, *first, *(("hog", 100, False),) * 10, *((f"late{i}", 1, False) for i in range(40))
            )
            lengths = [
                int(server.cli("xlen", "{code-judge}:jobs" + (f":{lane}" if lane else ""))) for lane in range(LANES)
            ]
            assert sum(length > 100 for length in lengths) == 2
            assert int(server.cli("hlen", "{code-judge}:owners")) == LANES
            taken = await take(source, 16 + 1000 + 40)
            # Those that share no stream with it come within a few rounds.
            early = taken[: 20 * LANES]
            assert sum(f"late{i}" in early for i in range(40)) >= 40 * 3 // 4
            await asyncio.gather(*calls)
            # Beside the streams: their owners, a worker and an API process with its results, the workers' names.
            assert len(server.cli("keys", "*").split()) <= 2 * LANES + 6


@needs_redis
async def test_a_stream_that_is_empty_is_the_next_clients(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with both_sides(server) as (broker, source):
            for i in range(3 * LANES):
                calls = await queue(broker, (f"c{i}", 2, False))
                await take(source, 2)
                await asyncio.gather(*calls)
            assert int(server.cli("hlen", "{code-judge}:owners")) == 1


def test_a_line_forgets_who_has_nothing_in_it() -> None:
    line: Line[int] = Line()
    for turn in range(3):
        line.add("a", range(4))
        line.add("b", range(10, 12))
        assert list(line.of("a")) == [0, 1, 2, 3]
        assert [line.pop() for _ in range(6)] == [0, 10, 1, 11, 2, 3], turn
        assert not line
        assert not line._waiting
    counts = Counts()
    counts.add("a", 3)
    counts.add("b", 1)
    assert (counts.total, counts.of("a"), counts.of("c")) == (4, 3, 0)
    counts.add("a", -3)
    assert (counts.total, dict(counts._own)) == (1, {"b": 1})


def scope(address: str = "10.0.0.1", **headers: str) -> dict[str, Any]:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"path": "/run", "client": (address, 4711), "headers": given}


def test_whose_a_request_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the address, but not by the connection; by the name that it gives; and only by the token where there are
    several, because names can be made up."""
    for tokens in ("", "one"):
        gate, given = Gate(Settings(code_judge_token=tokens)), {"authorization": f"Bearer {tokens}"}
        first = gate.client(scope(**given))
        assert gate.client(scope(**given) | {"client": ("10.0.0.1", 4712)}) == first
        assert len({first, *(gate.client(scope(**given, x_client_id=name)) for name in ("a", "b"))}) == 3
        assert gate.client(scope("10.0.0.2", **given)) != first
        assert gate.client(scope(**given, x_client_id="a")) == gate.client(scope("10.0.0.2", **given, x_client_id="a"))
        # Neither a name without an end nor none is one.
        assert (
            gate.client(scope(**given, x_client_id="x" * 1000)) == first == gate.client(scope(**given, x_client_id=""))
        )
        assert gate.client(scope(**given) | {"client": None}) == ""
    gate = Gate(Settings(code_judge_token="one, two"))
    one, two = ({"authorization": f"Bearer {token}"} for token in ("one", "two"))
    assert gate.client(scope(**one)) == gate.client(scope("10.0.0.2", **one, x_client_id="a"))
    assert gate.client(scope(**one)) != gate.client(scope(**two))
    for wrong in ("Bearer one, two", "Bearer ", "two"):
        with pytest.raises(Refused):
            gate.client(scope(authorization=wrong))


@pytest.mark.parametrize(
    ("waiting", "own", "new", "refused"),
    [(1000, 0, 10, False), (1000, 10, 1, True), (1000, 0, 11, True), (1099, 0, 1, False), (1099, 0, 2, True)],
)
def test_a_full_queue_takes_from_those_who_have_little_in_it(waiting: int, own: int, new: int, refused: bool) -> None:
    with pytest.raises(Refused) if refused else nullcontext():
        check_queue(waiting, new, 1000, own=own)


@pytest.mark.parametrize("over", ["memory", pytest.param("redis", marks=needs_redis)])
async def test_a_client_that_fills_the_queue_holds_up_nobody_else(over: str, tmp_path: Path) -> None:
    """One client's long batch is all that the queue takes. Another's single program and batches are answered at once,
    and more of the first is refused."""
    with ExitStack() as opened:
        if over == "memory":
            url = opened.enter_context(judge(MAX_WORKERS=4, MAX_QUEUE=3000)).url
        else:
            redis = opened.enter_context(redis_server(tmp_path))
            url = opened.enter_context(api(redis.uri, MAX_QUEUE=3000)).url
            opened.enter_context(workers(redis.uri, MAX_WORKERS=4))
        async with httpx.AsyncClient(base_url=url, timeout=120) as http:
            body = {"submissions": [{"type": "python", "solution": "import time\ntime.sleep(0.05)"}] * 3000}
            hog = asyncio.create_task(http.post("/run/long-batch", json=body, headers={"X-Client-Id": "hog"}))
            while (await http.get("/status")).json()["queue"] < 2500:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            for path, body in (
                ("/run", HELLO),
                ("/run/batch", {"submissions": [HELLO] * 10}),
                ("/run/long-batch", {"submissions": [HELLO] * 10}),
            ):
                reply = await http.post(path, json=body)
                assert reply.status_code == 200, reply.text
                found = reply.json().get("results", [reply.json()])
                assert {one["stdout"] for one in found} == {"hello\n"}
            assert (await http.get("/status")).json()["queue"] > 1500
            refused = await http.post("/run", json=HELLO, headers={"X-Client-Id": "hog"})
            assert refused.status_code == 429
            hog.cancel()


def test_the_client_brings_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "X-Client-Id" not in headers()
    monkeypatch.setenv("CODE_JUDGE_CLIENT_ID", "run 7")
    assert headers()["X-Client-Id"] == "run 7"
