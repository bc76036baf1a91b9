"""What a caller can ask of sessions: one table for those who ask over HTTP and for those who ask over Redis."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from code_judge.sessions.manager import Sessions
from code_judge.sessions.wire import GoTo, OpenSession, Places, RunCell, TakeSnapshot
from code_judge.wire import FILE_KEYS

_NOT_OF_A_CELL = {"tests", *FILE_KEYS}


class Nothing(BaseModel):
    """A body is not looked at."""


class Call(NamedTuple):
    """name: of the session that is meant; empty to open one. body: what the action takes. within: see Sessions.run."""

    name: str
    body: Any
    within: float | None = None


class Action(NamedTuple):
    """takes: what the body of a call is. carry_out: returns the reply as JSON. Raises SessionError."""

    takes: type[BaseModel]
    carry_out: Callable[[Sessions, Call], Awaitable[str]]


class Service(Protocol):
    """Where sessions are held: in this process, or by workers over Redis."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def call(self, action: str, name: str, body: BaseModel) -> bytes:
        """The reply of one of ACTIONS as JSON. Cancelling the call stops what it asked for. Raises SessionError."""

    async def places(self) -> Places:
        """Raises BrokerLost."""


class Here:
    """The sessions of this process."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def call(self, action: str, name: str, body: BaseModel) -> bytes:
        return (await ACTIONS[action].carry_out(self._sessions, Call(name, body))).encode()

    async def places(self) -> Places:
        return self._sessions.places


async def _open(sessions: Sessions, call: Call) -> str:
    return (await sessions.open(call.body)).model_dump_json()


async def _run(sessions: Sessions, call: Call) -> str:
    return (await sessions.run(call.name, call.body, within=call.within)).model_dump_json(exclude=_NOT_OF_A_CELL)


async def _snapshot(sessions: Sessions, call: Call) -> str:
    return json.dumps({"snapshot": await sessions.snapshot(call.name, replace=call.body.replace)})


async def _rollback(sessions: Sessions, call: Call) -> str:
    return json.dumps({"snapshot": await sessions.rollback(call.name, call.body.snapshot)})


async def _commit(sessions: Sessions, call: Call) -> str:
    await sessions.commit(call.name, call.body.snapshot)
    return '{"committed": true}'


async def _branch(sessions: Sessions, call: Call) -> str:
    return (await sessions.branch(call.name, call.body.snapshot)).model_dump_json()


async def _info(sessions: Sessions, call: Call) -> str:
    return sessions.info(call.name).model_dump_json()


async def _delete(sessions: Sessions, call: Call) -> str:
    sessions.delete(call.name)
    return '{"deleted": true}'


ACTIONS = {
    "open": Action(OpenSession, _open),
    "run": Action(RunCell, _run),
    "snapshot": Action(TakeSnapshot, _snapshot),
    "rollback": Action(GoTo, _rollback),
    "commit": Action(GoTo, _commit),
    "branch": Action(GoTo, _branch),
    "info": Action(Nothing, _info),
    "delete": Action(Nothing, _delete),
}
