"""What travels between API processes and the homes of sessions: each call is carried out once, in any order of mishaps.

Against a real Redis; the sessions themselves are imitated.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_harness import Redis, needs_redis, redis_server

from code_judge.broker.redis_keys import LIVE
from code_judge.broker.redis_link import Link
from code_judge.sessions.actions import Nothing
from code_judge.sessions.redis_api import RedisSessions
from code_judge.sessions.redis_calls import GRACE_SECONDS, Missing
from code_judge.sessions.redis_home import SessionHome
from code_judge.sessions.redis_mail import Inbox
from code_judge.sessions.wire import GoTo, OpenSession, Places, RunCell, SessionError, SessionInfo, Trouble

pytestmark = needs_redis


@pytest.fixture
def redis_(tmp_path: Path) -> Iterator[Redis]:
    with redis_server(tmp_path) as it:
        yield it


class Held:
    """Takes the place of Sessions. ran: calls so far."""

    def __init__(self, home: str, most: int = 4) -> None:
        self.home = home * 12
        self.most = most
        self.ran: list[Any] = []
        self.open_: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def places(self) -> Places:
        return Places(len(self.open_), self.most)

    async def open(self, wanted: OpenSession) -> SessionInfo:
        if len(self.open_) >= self.most:
            raise SessionError(Trouble.TOO_MANY, "full")
        self.open_.append(f"{self.home}{len(self.open_):020x}")
        return self.info(self.open_[-1])

    def info(self, name: str) -> SessionInfo:
        return SessionInfo(session=name, cells=len(self.ran), cpu=0, expires_in=1, snapshots=[])

    async def rollback(self, name: str, snapshot: str | None) -> str:
        self.ran.append(snapshot)
        await self.gate.wait()
        self.ran.append("end")
        return str(snapshot)

    def delete(self, name: str) -> None:
        self.open_.remove(name)


@contextlib.asynccontextmanager
async def homes(redis: Redis, *held: Held) -> AsyncIterator[list[SessionHome]]:
    found = [SessionHome(one, redis.uri, prefix="code-judge", drain_time=5) for one in held]  # type: ignore[arg-type]
    for home in found:
        await home.start()
    try:
        yield found
    finally:
        for home in found:
            await home.stop()


@contextlib.asynccontextmanager
async def caller(redis: Redis, life_time: float = 10) -> AsyncIterator[RedisSessions]:
    it = RedisSessions(redis.uri, prefix="code-judge", patience=5, life_time=life_time)
    await it.start()
    try:
        yield it
    finally:
        await it.stop()


async def opened(api: RedisSessions) -> str:
    return str(json.loads(await api.call("open", "", OpenSession()))["session"])


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Doubling:
    """A link whose scripts are executed, and whose replies are lost the first time."""

    def __init__(self, link: Link) -> None:
        self.__dict__["link"] = link
        self.__dict__["seen"] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)

    async def call(self, command: Any) -> Any:
        result = await self.link.call(command)
        if id(command) not in self.seen:
            self.seen.add(id(command))
            await self.link.call(command)
        return result

    async def retry_for_ever(self, command: Any) -> Any:
        await self.link.retry_for_ever(command)
        return await self.link.retry_for_ever(command)


async def test_a_call_that_was_written_twice_is_carried_out_once(
    redis_: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where there is always something new, nothing is read again.
    monkeypatch.setattr(Inbox, "rewind", lambda _: None)
    held = Held("a")
    async with homes(redis_, held), caller(redis_) as api:
        name = await opened(api)
        api._outbox._link = Doubling(api._link)  # type: ignore[assignment]
        assert json.loads(await api.call("rollback", name, GoTo(snapshot="s1"))) == {"snapshot": "s1"}
        held.gate.clear()
        waiting = asyncio.create_task(api.call("rollback", name, GoTo(snapshot="s2")))
        # Longer than it takes to find a call missing.
        await asyncio.sleep(3)
        held.gate.set()
        await waiting
        assert held.ran == ["s1", "end", "s2", "end"]
        await until(lambda: redis_.cli("xlen", f"{{code-judge}}:session-calls:{held.home}").strip() == b"0")


async def test_an_answer_that_was_written_twice_is_read_once(redis_: Redis) -> None:
    held = Held("a")
    async with homes(redis_, held) as (home,), caller(redis_) as api:
        name = await opened(api)
        home._answers._link = Doubling(home._link)  # type: ignore[assignment]
        for number in range(3):
            reply = await api.call("rollback", name, GoTo(snapshot=str(number)))
            assert json.loads(reply) == {"snapshot": str(number)}
        # Both in one moment, before the caller has seen the first.
        settle = api._inbox._take
        api._inbox._take = lambda *answer: [settle(*answer) for _ in range(2)]  # type: ignore[assignment,func-returns-value]
        for number in range(2):
            assert json.loads(await api.call("rollback", name, GoTo(snapshot=str(number))))["snapshot"] == str(number)


async def test_a_session_whose_name_has_not_reached_its_caller_is_closed_when_the_caller_leaves(redis_: Redis) -> None:
    held = Held("a")
    async with homes(redis_, held), caller(redis_) as api:
        api._inbox._take = lambda *_: None
        call = asyncio.create_task(api.call("open", "", OpenSession()))
        await until(lambda: held.open_)
        await until(lambda: redis_.cli("xlen", f"{{code-judge}}:session-calls:{held.home}").strip() == b"0")
        call.cancel()
        await until(lambda: not held.open_)


async def test_a_caller_that_leaves_stops_what_it_asked_for(redis_: Redis) -> None:
    held = Held("a")
    held.gate.clear()
    async with homes(redis_, held), caller(redis_) as api:
        name = await opened(api)
        call = asyncio.create_task(api.call("rollback", name, GoTo(snapshot="s1")))
        await until(lambda: held.ran)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: redis_.cli("xlen", f"{{code-judge}}:session-calls:{held.home}").strip() == b"0")
        held.gate.set()
        await api.call("info", name, Nothing())
        assert held.ran == ["s1"]


async def test_many_that_open_at_once_are_spread_and_a_full_home_sends_them_on(redis_: Redis) -> None:
    small, large = Held("a", most=2), Held("b", most=6)
    async with homes(redis_, small, large), caller(redis_) as one, caller(redis_) as two:
        names = await asyncio.gather(*(opened(api) for api in (one, two) * 4))
        assert [len(held.open_) for held in (small, large)] == [2, 6]
        assert len(set(names)) == 8
        with pytest.raises(SessionError, match="all places for sessions of 2 workers are taken") as error:
            await opened(one)
        assert error.value.trouble is Trouble.TOO_MANY
        assert await two.places() == (8, 8)


async def test_a_call_on_its_way_counts_as_a_place_that_is_taken(redis_: Redis) -> None:
    one, other = Held("a", most=4), Held("b", most=4)
    async with homes(redis_, one, other), caller(redis_) as api:
        await asyncio.gather(*(opened(api) for _ in range(4)))
        assert one.open_
        assert other.open_


async def test_a_home_that_has_no_place_after_all_sends_a_caller_on(redis_: Redis) -> None:
    full, free = Held("a", most=9), Held("b", most=2)
    async with homes(redis_, full, free), caller(redis_) as api:

        async def refuse(_: OpenSession) -> SessionInfo:
            raise SessionError(Trouble.TOO_MANY, "full")

        full.open = refuse  # type: ignore[method-assign]
        assert (await opened(api)).startswith(free.home)


async def test_a_home_that_ends_says_so_and_others_go_on(redis_: Redis) -> None:
    first, second = Held("a", most=9), Held("b", most=2)
    async with homes(redis_, second), caller(redis_) as api:
        async with homes(redis_, first) as (home,):
            name = await opened(api)
            assert name.startswith(first.home)
            first.gate.clear()
            waiting = asyncio.create_task(api.call("rollback", name, GoTo(snapshot="s1")))
            await until(lambda: first.ran)
            draining = asyncio.create_task(home.drain())
            await asyncio.sleep(0.2)
            assert (await opened(api)).startswith(second.home)
            # It goes on with its sessions, until there are none.
            assert json.loads(await api.call("info", name, Nothing()))["session"] == name
            assert not draining.done()
            first.gate.set()
            await waiting
            await api.call("delete", name, Nothing())
            await asyncio.wait_for(draining, 4)
        with pytest.raises(SessionError, match="the worker that held it was shut down") as error:
            await api.call("info", name, Nothing())
        assert error.value.trouble is Trouble.LOST


def test_a_home_is_lost_after_its_grace_and_then_known_to_be_until_it_gives_a_sign_of_life() -> None:
    missing = Missing()
    assert missing.gone("home", None, 10) is None
    assert missing.gone("home", None, 10 + 0.9 * GRACE_SECONDS) is None
    assert missing.gone("other", None, 10 + GRACE_SECONDS) is None
    lost = "the worker that held it is gone"
    assert [missing.gone("home", state, 10 + GRACE_SECONDS) for state in (None, b"", None)] == [lost] * 3
    assert missing.gone("home", LIVE.encode(), 20) is None
    assert missing.gone("home", None, 30) is None


async def test_what_another_version_says_is_our_failure(redis_: Redis) -> None:
    held = Held("a")
    async with homes(redis_, held), caller(redis_) as api:
        name = await opened(api)
        with pytest.raises(SessionError, match="is it of another version") as error:
            await api.call("fly", name, Nothing())
        assert error.value.trouble is Trouble.INTERNAL_ERROR
        with pytest.raises(SessionError, match="is it of another version"):
            await api.call("run", name, GoTo())
        assert Trouble("a trouble of the future") is Trouble.INTERNAL_ERROR


async def test_a_bug_in_the_home_is_our_failure_and_ends_nothing(redis_: Redis, caplog: Any) -> None:
    held = Held("a")
    async with homes(redis_, held), caller(redis_) as api:
        name = await opened(api)
        with pytest.raises(SessionError, match="the worker failed; see its log"):
            # The imitation has no `run`.
            await api.call("run", name, RunCell(code="1"))
        assert f"session {name} failed inside the service" in caplog.text
        assert json.loads(await api.call("info", name, Nothing()))["session"] == name
