"""The side that holds sessions over Redis: carries out the calls of its sessions, and says how many more it can take.

It starts each call once, and answers it in the step in which the call is deleted. An answer is a sign of life, too.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from code_judge.broker.redis_keys import DRAINING, ENDED, HOME_TTL, LIVE, RESULTS_TTL, Keys
from code_judge.broker.redis_link import LOST, Link, run_script
from code_judge.gate import REQUEST_ID
from code_judge.sessions.actions import ACTIONS, Call
from code_judge.sessions.manager import Sessions
from code_judge.sessions.redis_calls import LEAVE
from code_judge.sessions.redis_mail import Inbox, Outbox
from code_judge.sessions.redis_scripts import SIGN
from code_judge.sessions.wire import SessionError, Trouble
from code_judge.tasks import background, end

logger = logging.getLogger(__name__)

BEAT_SECONDS = HOME_TTL / 7
REMEMBERED = 10_000
"""Calls that are known when they come a second time."""
_LAST_SECONDS = 2
_OPENING = ("open", "branch")


@dataclass(eq=False, slots=True)
class _Taken:
    """A call. action, name, request: see redis_scripts.py. entries: all under which it came. task: until it is
    answered. result: of one that has opened a session."""

    reply: bytes
    id: bytes
    action: str
    name: str
    request: str
    entries: list[bytes]
    task: "asyncio.Task[str] | None" = None
    result: str = ""


class _Answer(NamedTuple):
    """The order is SIGN's."""

    entry: bytes
    reply: bytes = b""
    id: bytes = b""
    kind: str = "result"
    text: str = ""


class SessionHome:
    def __init__(self, sessions: Sessions, uri: str, *, prefix: str, drain_time: float) -> None:
        self._sessions = sessions
        self._drain_time = drain_time
        self._link = Link(uri, Keys(prefix))
        self._state = LIVE
        self._calls: OrderedDict[bytes, _Taken] = OrderedDict()
        self._answers = Outbox[_Answer](self._link, self._sign)
        self._signing = asyncio.Lock()
        # No session is open, and no call under way.
        self._unused = asyncio.Event()
        # Redis' time minus ours, in seconds.
        self._clock = 0.0
        self._reading: list[asyncio.Task[None]] = []
        self._writing: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._link.retry_for_ever(lambda client: self._sign(client, []))
        inbox = Inbox(self._link, self._link.keys.session_calls + self._sessions.home, self._take)
        self._reading = [background(inbox.run())]
        self._writing = [background(self._answers.run()), background(self._beat())]

    async def drain(self) -> None:
        """Take no new sessions, and wait until there are none, up to DRAIN_TIME."""
        self._state = DRAINING
        await self._say()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._unused.wait(), self._drain_time)

    async def stop(self) -> None:
        """The callers are told that the sessions are lost."""
        await end(self._reading)
        self._state = ENDED
        await end(self._running)
        try:
            await self._answers.flush(_LAST_SECONDS)
        except TimeoutError:
            logger.warning("some answers of sessions could not be written")
        await end(self._writing)
        await self._say()
        await self._link.close()

    @property
    def _running(self) -> "list[asyncio.Task[str]]":
        return [call.task for call in self._calls.values() if call.task is not None]

    # ---- calls -----------------------------------------------------------------------------------------------------

    def _take(self, entry: bytes, fields: dict[bytes, bytes]) -> None:
        id_, action = fields[b"id"], fields[b"action"].decode()
        call = self._calls.get(id_)
        if call is not None:
            if entry not in call.entries:
                # Written twice, because the first reply of Redis was lost.
                call.entries.append(entry)
            if call.task is None:
                self._answers.put(_Answer(entry))
        elif action == LEAVE:
            self._leave(fields[b"body"])
            self._answers.put(_Answer(entry))
        else:
            name, request = fields[b"name"].decode(), fields[b"request"].decode()
            call = self._calls[id_] = _Taken(fields[b"reply"], id_, action, name, request, [entry])
            call.task = asyncio.create_task(self._carry_out(entry, action, fields))
            call.task.add_done_callback(lambda task: self._answer(call, task))
            self._forget()

    def _leave(self, id_: bytes) -> None:
        """Nobody waits for this call any longer."""
        call = self._calls.get(id_)
        if call is None:
            return
        if call.task is not None:
            call.task.cancel()
        elif call.result and call.action in _OPENING:
            # Nobody has the name of what it has opened.
            with contextlib.suppress(SessionError):
                self._sessions.delete(json.loads(call.result)["session"])

    async def _carry_out(self, entry: bytes, action: str, fields: dict[bytes, bytes]) -> str:
        """Raises SessionError."""
        REQUEST_ID.set(fields[b"request"].decode())
        within = float(fields[b"within"]) - max(0.0, self._age(entry))
        if within <= 0:
            raise SessionError(
                Trouble.QUEUE_TIMEOUT, f"the call could not be started within {float(fields[b'within']):g} s"
            )
        if action == "open" and self._state != LIVE:
            raise SessionError(Trouble.NOT_OPENED, "the worker is about to end")
        try:
            body = ACTIONS[action].takes.model_validate_json(fields[b"body"])
        except (KeyError, ValidationError) as error:
            why = f"the worker does not understand the call; is it of another version? {error}"
            raise SessionError(Trouble.INTERNAL_ERROR, why) from error
        return await ACTIONS[action].carry_out(self._sessions, Call(fields[b"name"].decode(), body, within))

    def _answer(self, call: _Taken, task: "asyncio.Task[str]") -> None:
        call.task = None
        first, *others = call.entries
        for entry in others:
            self._answers.put(_Answer(entry))
        error = self._error(call, task)
        if error is None:
            call.result = task.result() if call.action in _OPENING else ""
            self._answers.put(_Answer(first, call.reply, call.id, "result", task.result()))
        else:
            text = json.dumps({"error": error.trouble, "message": str(error)})
            self._answers.put(_Answer(first, call.reply, call.id, "error", text))

    def _error(self, call: _Taken, task: "asyncio.Task[str]") -> SessionError | None:
        if task.cancelled():
            why = "the worker that held it was shut down" if self._state == ENDED else "its caller has left"
            return SessionError(Trouble.LOST, f"session {call.name} is lost: {why}")
        error = task.exception()
        if error is None or isinstance(error, SessionError):
            return error
        logger.error("request %s: session %s failed inside the service", call.request, call.name, exc_info=error)
        return SessionError(Trouble.INTERNAL_ERROR, "the worker failed; see its log")

    def _forget(self) -> None:
        """Calls that were answered long ago."""
        while len(self._calls) > REMEMBERED and next(iter(self._calls.values())).task is None:
            self._calls.popitem(last=False)

    def _age(self, entry: bytes) -> float:
        """Seconds since it was written."""
        return time.monotonic() + self._clock - int(entry.partition(b"-")[0]) / 1000

    # ---- signs of life ---------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._link.call(lambda client: self._sign(client, []))
            except LOST as error:
                logger.debug("Redis cannot be reached: %s", error)

    async def _say(self) -> None:
        """The state has changed. Best effort."""
        try:
            await asyncio.wait_for(self._link.call(lambda client: self._sign(client, [])), 1)
        except (TimeoutError, *LOST) as error:
            logger.debug("Redis cannot be reached: %s", error)

    async def _sign(self, client: Any, answers: list[_Answer]) -> None:
        keys, waits = self._link.keys, int(RESULTS_TTL * 1000)
        # One after the other: an older number of free places must not overwrite a newer one.
        async with self._signing:
            open_, most = self._sessions.places
            if open_ or self._running:
                self._unused.clear()
            else:
                self._unused.set()
            holds = waits if self._state == ENDED else int(HOME_TTL * 1000)
            if self._state != LIVE:
                most = open_
            values: list[Any] = [keys.session_home, keys.session_calls, self._sessions.home, waits, self._state, ENDED]
            values += (holds, open_, most, most - open_, *(value for answer in answers for value in answer))
            seconds, micros = await run_script(client, SIGN, [keys.session_homes], *values)
            self._clock = int(seconds) + int(micros) / 1e6 - time.monotonic()
