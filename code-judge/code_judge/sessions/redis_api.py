"""The side that asks for sessions over Redis, one an API process: hands each call to the home of its session.

A session's name says which home holds it, so any API process can hand on the calls of any session, and none remembers
anything. A home that is missing for longer than Redis may need to hear from it again has died, and its sessions are
lost. All calls are answered `internal_error` once Redis could not be reached for `patience` seconds.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from code_judge.broker import BrokerLost
from code_judge.broker.redis_keys import LIVE, RESULTS_TTL, Keys
from code_judge.broker.redis_link import LOST, Link, run_script
from code_judge.gate import REQUEST_ID
from code_judge.sessions.redis_calls import LEAVE, Missing, Sent
from code_judge.sessions.redis_mail import Inbox, Outbox
from code_judge.sessions.redis_scripts import HOMES, LOOK, PLACE, SEND
from code_judge.sessions.wire import Places, SessionError, Trouble, home_of
from code_judge.tasks import background, end

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.5
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 0.2
_MISSED = 4
"""Looks in a row that do not find a call."""
_ELSEWHERE = (Trouble.TOO_MANY, Trouble.UNAVAILABLE, Trouble.NOT_OPENED, Trouble.LOST)
"""Of a home that cannot open a session where another one may."""


class RedisSessions:
    """A Service."""

    def __init__(self, uri: str, *, prefix: str, patience: float, life_time: float) -> None:
        """prefix: of the keys. life_time: seconds in which a call has to start."""
        self._link = Link(uri, Keys(prefix))
        self._patience = patience
        self._life_time = life_time
        self._reply = self._link.keys.session_replies + uuid.uuid4().hex
        self._ids = itertools.count()
        self._process = uuid.uuid4().hex
        self._calls: dict[str, Sent] = {}
        self._missing = Missing()
        self._reachable = 0.0
        self._outbox = Outbox[Sent](self._link, self._send)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._inbox = Inbox(self._link, self._reply, self._settle)
        self._tasks = [background(loop) for loop in (self._outbox.run(), self._inbox.run(), self._check())]

    async def stop(self) -> None:
        await end(self._tasks)
        await self._link.close()

    async def call(self, action: str, name: str, body: BaseModel) -> bytes:
        if action == "open":
            return await self._open(body)
        home = home_of(name)
        if home is None:
            raise SessionError(Trouble.UNKNOWN, f"there is no session {name}")
        with self._begun(action, name, body.model_dump_json()) as call:
            call.home = home
            self._outbox.put(call)
            return await call.answer

    async def places(self) -> Places:
        keys = self._link.keys

        def ask(client: Any) -> Any:
            return run_script(client, HOMES, [keys.session_homes], keys.session_home)

        try:
            found = await asyncio.wait_for(self._link.call(ask), 2)
        except (TimeoutError, *LOST) as error:
            raise BrokerLost(f"Redis cannot be reached: {error}") from error
        return Places(sum(int(home[0]) for home in found), sum(int(home[1]) for home in found))

    async def _open(self, body: BaseModel) -> bytes:
        tried: list[str] = []
        error: SessionError | None = None
        while True:
            with self._begun("open", "", body.model_dump_json()) as call:
                others = await self._place(call, tried)
                if call.entry is None:
                    if error is not None and not others:
                        raise error
                    raise _no_place(others)
                try:
                    return await call.answer
                except SessionError as refusal:
                    if refusal.trouble not in _ELSEWHERE:
                        raise
                    lost = refusal.trouble is Trouble.LOST
                    error = SessionError(Trouble.NOT_OPENED, str(refusal)) if lost else refusal
                    tried.append(call.home)

    async def _place(self, call: Sent, tried: Collection[str]) -> int:
        """Hand it to the home with the most places. Returns how many homes came into question."""
        keys = self._link.keys
        values = (keys.session_home, keys.session_calls, int(RESULTS_TTL * 1000), LIVE, *call.values, *tried)
        loop = asyncio.get_running_loop()
        while True:
            try:
                others, *placed = await self._link.call(
                    lambda client: run_script(client, PLACE, [keys.session_homes], *values)
                )
            except LOST as error:
                if loop.time() - call.since > self._patience:
                    raise SessionError(Trouble.INTERNAL_ERROR, f"Redis cannot be reached: {error}") from error
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if placed:
                call.home, call.entry = placed[0].decode(), placed[1]
            return int(others)

    @contextlib.contextmanager
    def _begun(self, action: str, name: str, body: str) -> Iterator[Sent]:
        """A call whose answer is waited for. If its caller goes away, it is taken back."""
        call = self._new(action, name, body)
        self._calls[call.id] = call
        try:
            yield call
        except asyncio.CancelledError:
            self._take_back(call)
            raise
        finally:
            del self._calls[call.id]

    def _new(self, action: str, name: str, body: str) -> Sent:
        loop, id_ = asyncio.get_running_loop(), f"{self._process}-{next(self._ids)}"
        values = (id_, self._reply, action, name, body, f"{self._life_time:g}", REQUEST_ID.get())
        return Sent(id_, name, values, loop.time(), loop.create_future())

    def _take_back(self, call: Sent) -> None:
        if call.home:
            leave = self._new(LEAVE, call.name, call.id)
            leave.home = call.home
            self._outbox.put(leave)

    async def _send(self, client: Any, calls: list[Sent]) -> None:
        keys = self._link.keys
        batch = [call for call in calls if not call.answer.done()]
        if not batch:
            return
        values: list[Any] = [keys.session_home, keys.session_calls, int(RESULTS_TTL * 1000)]
        for call in batch:
            values += (call.home, *call.values)
        sent = await run_script(client, SEND, [keys.session_homes], *values)
        now = asyncio.get_running_loop().time()
        for call, (entry, state) in zip(batch, sent, strict=True):
            call.entry = entry
            if call.id in self._calls and (why := self._missing.gone(call.home, state, now)):
                call.lose(why)
                self._take_back(call)

    def _settle(self, _: bytes, fields: dict[bytes, bytes]) -> None:
        call = self._calls.get(fields[b"id"].decode())
        if call is None or call.answer.done():
            return
        if b"result" in fields:
            call.answer.set_result(fields[b"result"])
        else:
            error = json.loads(fields[b"error"])
            call.fail(Trouble(error["error"]), error["message"])

    # ---- what cannot be answered -----------------------------------------------------------------------------------

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await asyncio.wait_for(self._link.call(self._look), _LOOK_SECONDS)
                self._reachable = asyncio.get_running_loop().time()
            except (TimeoutError, *LOST) as error:
                logger.debug("Redis cannot be reached: %s", error)
            now = asyncio.get_running_loop().time()
            unreachable = now - max(self._reachable, self._inbox.heard) > self._patience
            for call in self._calls.values():
                if now - call.since > self._patience and (unreachable or call.entry is None):
                    call.fail(Trouble.INTERNAL_ERROR, f"Redis could not be reached for {self._patience:g} s")

    async def _look(self, client: Any) -> None:
        """For calls that are lost, and for homes that are gone."""
        await self._inbox.trim(client)
        keys, calls = self._link.keys, defaultdict[str, list[Sent]](list)
        for call in self._calls.values():
            if call.entry is not None and not call.answer.done():
                calls[call.home].append(call)
        for home, waiting in calls.items():
            entries = [call.entry for call in waiting]
            values = (keys.session_home, keys.session_calls, home, *entries)
            state, missing = await run_script(client, LOOK, [keys.session_homes], *values)
            if why := self._missing.gone(home, state, asyncio.get_running_loop().time()):
                for call in waiting:
                    call.lose(why)
                    # It does not begin if the home was only held up.
                    self._take_back(call)
            else:
                self._note_missing(waiting, set(missing))

    def _note_missing(self, calls: Iterable[Sent], missing: Collection[bytes]) -> None:
        for call in calls:
            call.missed = call.missed + 1 if call.entry in missing else 0
            if call.missed:
                # Its answer may be there, before what was read last: Redis' clock was set back.
                self._inbox.rewind()
            if call.missed >= _MISSED:
                call.fail(Trouble.INTERNAL_ERROR, "Redis has lost the call")


def _no_place(homes: int) -> SessionError:
    if homes:
        return SessionError(Trouble.TOO_MANY, f"all places for sessions of {homes} workers are taken (MAX_SESSIONS)")
    return SessionError(
        Trouble.NOT_OPENED, "no worker that takes sessions gives a sign of life; start run_workers.py, and see its log"
    )
