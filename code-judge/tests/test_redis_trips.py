"""Round trips of the queue in Redis: what they carry under load, and what they leave to others."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis.exceptions
from redis_harness import Redis, needs_redis, redis_server, wait_until

from code_judge.broker import Job, WorkerStatus, no_verdict
from code_judge.broker.redis_api import RedisBroker
from code_judge.broker.redis_keys import Keys
from code_judge.broker.redis_link import Link, run_script
from code_judge.broker.redis_worker import RedisSource
from code_judge.wire import Reason, RunResult, Submission


@pytest.fixture
def redis_(tmp_path: Path) -> Iterator[Redis]:
    with redis_server(tmp_path) as it:
        yield it


@contextlib.asynccontextmanager
async def both_sides(redis: Redis) -> AsyncIterator[tuple[RedisBroker, RedisSource]]:
    broker, source = (
        RedisBroker(redis.uri, prefix="code-judge", patience=30),
        RedisSource(redis.uri, prefix="code-judge", deliveries=3),
    )
    await source.open(lambda: WorkerStatus(4, 0, ()))
    await broker.start()
    try:
        yield broker, source
    finally:
        await broker.stop()
        await source.close()


def submissions(name: str, count: int) -> list[Submission]:
    return [Submission(type="python", solution=f"{name} {i}") for i in range(count)]


def result(job: Job) -> RunResult:
    return no_verdict(job.submission, Reason.NONE, f"ran {job.submission.solution}")


def queued(redis: Redis) -> int:
    return sum(int(redis.cli("xlen", f"{{code-judge}}:{name}")) for name in ("jobs", "long-jobs"))


def kept(redis: Redis) -> int:
    return int(redis.cli("xlen", redis.cli("keys", "{code-judge}:results:*").decode().strip()))


def trips(redis: Redis) -> int:
    """Round trips so far that carried jobs or results."""
    counts = re.findall(rb"cmdstat_(?:evalsha|eval|xread):calls=(\d+)", redis.cli("info", "commandstats"))
    return sum(map(int, counts))


@needs_redis
async def test_both_kinds_take_turns_and_share_round_trips(redis_: Redis) -> None:
    async with both_sides(redis_) as (broker, source):
        batch = asyncio.create_task(broker.submit(submissions("long", 200), life_time=600, long=True))
        singles = [asyncio.create_task(broker.submit([s], life_time=60)) for s in submissions("single", 200)]
        await asyncio.to_thread(wait_until, lambda: queued(redis_) == 400, "all are queued")
        before, taken = trips(redis_), list[Job]()
        while len(taken) < 400:
            jobs = await asyncio.wait_for(source.take(lambda: 4), 10)
            assert 1 <= len(jobs) <= 4
            taken += jobs
            for job in jobs:
                source.finish(job, result(job))
        kinds = [job.submission.solution.split()[0] for job in taken]
        assert 90 <= kinds[:200].count("long") <= 110
        answers = [await asyncio.wait_for(task, 10) for task in singles]
        assert [answer[0].stderr for answer in answers] == [f"ran single {i}" for i in range(200)]
        assert [answer.stderr for answer in await batch] == [f"ran long {i}" for i in range(200)]
        # A hundred that write four results and take four jobs, and the API's, which are no more.
        assert trips(redis_) - before < 320
        assert queued(redis_) == 0
        await asyncio.to_thread(wait_until, lambda: kept(redis_) < 100, "the results that were read are gone", 10)


@needs_redis
async def test_both_kinds_take_turns_with_room_for_one(redis_: Redis) -> None:
    """Each result is written on its own, before there is room for the next job."""
    async with both_sides(redis_) as (broker, source):
        batch = asyncio.create_task(broker.submit(submissions("long", 40), life_time=600, long=True))
        singles = asyncio.create_task(broker.submit(submissions("single", 40), life_time=60))
        await asyncio.to_thread(wait_until, lambda: queued(redis_) == 80, "all are queued")
        kinds = []
        for left in range(80, 0, -1):
            (job,) = await asyncio.wait_for(source.take(lambda: 1), 10)
            kinds.append(job.submission.solution.split()[0])
            source.finish(job, result(job))
            await asyncio.to_thread(wait_until, lambda left=left: queued(redis_) < left, "the result is written")
        assert 18 <= kinds[:40].count("long") <= 22
        assert len(await batch) == len(await singles) == 40


@needs_redis
async def test_what_a_lost_reply_brought_is_found_and_counted_once(redis_: Redis) -> None:
    async with both_sides(redis_) as (broker, source):
        answer = asyncio.create_task(broker.submit(submissions("single", 3), life_time=60))
        await asyncio.to_thread(wait_until, lambda: queued(redis_) == 3, "all are queued")
        # As a command whose connection is lost on the way back.
        redis_.cli("xreadgroup", "group", "workers", source.name, "count", "2", "streams", "{code-judge}:jobs", ">")
        jobs: list[Job] = []
        while len(jobs) < 3:
            jobs += await asyncio.wait_for(source.take(lambda: 4), 10)
        await asyncio.sleep(1.5)
        pending = redis_.cli("xpending", "{code-judge}:jobs", "workers", "-", "+", "9").split()
        # Entry, consumer, idle time and deliveries of each.
        assert pending[3::4] == [b"1"] * 3
        for job in jobs:
            source.finish(job, result(job))
        assert len(await asyncio.wait_for(answer, 10)) == 3


@needs_redis
async def test_a_job_that_was_taken_over_counts_as_delivered_only_when_it_is_begun(redis_: Redis) -> None:
    async with both_sides(redis_) as (broker, source):
        answer = asyncio.create_task(broker.submit(submissions("single", 2), life_time=60))
        await asyncio.to_thread(wait_until, lambda: queued(redis_) == 2, "all are queued")
        redis_.cli("xgroup", "create", "{code-judge}:jobs", "workers", "0")
        redis_.cli("xreadgroup", "group", "workers", "dead", "streams", "{code-judge}:jobs", ">")
        await asyncio.to_thread(wait_until, lambda: len(source._orphans) == 2, "they are taken over")

        def deliveries() -> list[bytes]:
            return redis_.cli("xpending", "{code-judge}:jobs", "workers", "-", "+", "9").split()[3::4]

        assert deliveries() == [b"1"] * 2
        (begun,) = await asyncio.wait_for(source.take(lambda: 1), 10)
        assert sorted(deliveries()) == [b"1", b"2"]
        # The one that is not begun goes to others without having counted.
        await source.release(keep=[begun])
        assert sorted(deliveries()) == [b"1", b"2"]
        source.finish(begun, result(begun))
        other = RedisSource(redis_.uri, prefix="code-judge", deliveries=2)
        await other.open(lambda: WorkerStatus(4, 0, ()))
        (job,) = await asyncio.wait_for(other.take(lambda: 4), 10)
        other.finish(job, result(job))
        assert len(await asyncio.wait_for(answer, 10)) == 2
        await other.close()


@needs_redis
async def test_a_leaving_worker_gives_back_what_it_has_not_begun(redis_: Redis) -> None:
    async with both_sides(redis_) as (broker, source):
        answer = asyncio.create_task(broker.submit(submissions("single", 3), life_time=60))
        await asyncio.to_thread(wait_until, lambda: queued(redis_) == 3, "all are queued")
        (begun,) = await asyncio.wait_for(source.take(lambda: 1), 10)
        redis_.cli("xreadgroup", "group", "workers", source.name, "streams", "{code-judge}:jobs", ">")
        await source.release(keep=[begun])
        other = RedisSource(redis_.uri, prefix="code-judge", deliveries=1)
        await other.open(lambda: WorkerStatus(4, 0, ()))
        jobs: list[Job] = []
        while len(jobs) < 2:
            jobs += await asyncio.wait_for(other.take(lambda: 4), 10)
        for job in jobs:
            other.finish(job, result(job))
        source.finish(begun, result(begun))
        assert [one.stderr for one in await asyncio.wait_for(answer, 10)] == [f"ran single {i}" for i in range(3)]
        await other.close()


@needs_redis
async def test_a_worker_that_ends_before_its_jobs_gives_them_back_uncounted(redis_: Redis) -> None:
    """As often as it may be: here one delivery is all that a job gets."""
    async with both_sides(redis_) as (broker, first):
        answer = asyncio.create_task(broker.submit(submissions("single", 1), life_time=60))
        for worker in (first, *(RedisSource(redis_.uri, prefix="code-judge", deliveries=1) for _ in range(3))):
            if worker is not first:
                await worker.open(lambda: WorkerStatus(4, 0, ()))
            (job,) = await asyncio.wait_for(worker.take(lambda: 1), 10)
            await worker.release(keep=[job])
            await worker.release()
            if worker is not first:
                await worker.close()
        async with asyncio.timeout(20):
            last = RedisSource(redis_.uri, prefix="code-judge", deliveries=1)
            await last.open(lambda: WorkerStatus(4, 0, ()))
            (job,) = await last.take(lambda: 1)
            last.finish(job, result(job))
            assert (await answer)[0].stderr == "ran single 0"
            await last.close()


@needs_redis
async def test_results_are_written_when_no_job_is_asked_for(redis_: Redis) -> None:
    async with both_sides(redis_) as (broker, source):
        answer = asyncio.create_task(broker.submit(submissions("single", 4), life_time=60))
        jobs: list[Job] = []
        while len(jobs) < 4:
            jobs += await asyncio.wait_for(source.take(lambda: 4), 10)
        for job in jobs:
            source.finish(job, result(job))
        assert [one.stderr for one in await asyncio.wait_for(answer, 10)] == [f"ran single {i}" for i in range(4)]


@needs_redis
async def test_a_primary_that_has_become_a_replica_is_left_at_a_plain_address_too(redis_: Redis) -> None:
    """By commands and by scripts; a later call has a new connection."""
    link = Link(redis_.uri, Keys("code-judge"))
    before = await link.client()
    for write in (
        lambda client: client.set("a", 1),
        lambda client: run_script(client, "return redis.call('SET', KEYS[1], 1)", ["a"]),
    ):
        redis_.cli("replicaof", "127.0.0.1", "1")
        with pytest.raises(redis.exceptions.ConnectionError, match="become a replica"):
            await link.call(write)
        redis_.cli("replicaof", "no", "one")
        await link.call(write)
        assert await link.client() is not before
        before = await link.client()
    await link.close()


async def test_a_lost_node_is_left_without_closing_what_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    found: list[Any] = []

    async def disconnect(inuse_connections: bool) -> None:
        closed.append(inuse_connections)

    async def find(*_: str) -> Any:
        found.append(SimpleNamespace(connection_pool=SimpleNamespace(disconnect=disconnect)))
        return found[-1]

    monkeypatch.setattr("code_judge.broker.redis_link._node_of_cluster", find)
    link, go_on = Link("redis+cluster://h:1", Keys("code-judge")), asyncio.Event()

    async def slow(client: Any) -> Any:
        await go_on.wait()
        return client

    async def fails(_: Any) -> None:
        raise redis.exceptions.ClusterDownError("down")

    other = asyncio.create_task(link.call(slow))
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(redis.exceptions.ClusterDownError):
            await link.call(fails)
    go_on.set()
    assert await other is found[0]
    # Each failure connected anew, and no connection in use was closed.
    assert (len(found), closed) == (2, [False, False])
