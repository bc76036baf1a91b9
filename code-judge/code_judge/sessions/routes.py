"""/session: which call of the session manager answers which request."""

import json
from collections.abc import Awaitable, Callable

from code_judge.asgi import Handler, Reply, Request, Routes
from code_judge.broker import Broker
from code_judge.metrics import samples
from code_judge.sessions.manager import Sessions
from code_judge.sessions.wire import GoTo, OpenSession, RunCell, SessionError, TakeSnapshot, Trouble

ELSEWHERE = (
    "sessions live in the process that serves HTTP, which has none where the queue is in Redis; for sessions run "
    '"code-judge serve" without REDIS_URI'
)


class SessionFront:
    """sessions: None where this process cannot have any. broker: counts cells with the other submissions."""

    def __init__(self, sessions: Sessions | None, broker: Broker) -> None:
        self._sessions = sessions
        self._broker = broker

    def add_to(self, routes: Routes) -> None:
        for method, path, answer in (
            ("POST", "/session", self._open),
            ("GET", "/session", self._overview),
            ("GET", "/session/{id}", self._info),
            ("DELETE", "/session/{id}", self._delete),
            ("POST", "/session/{id}/run", self._run),
            ("POST", "/session/{id}/snapshot", self._snapshot),
            ("POST", "/session/{id}/rollback", self._rollback),
            ("POST", "/session/{id}/commit", self._commit),
            ("POST", "/session/{id}/branch", self._branch),
        ):
            routes.add(method, path, _handler(answer))

    @property
    def _there(self) -> Sessions:
        if self._sessions is None:
            raise SessionError(Trouble.UNAVAILABLE, ELSEWHERE)
        return self._sessions

    async def _open(self, request: Request) -> bytes:
        opened = await self._there.open(OpenSession.model_validate_json(request.body or b"{}"))
        return opened.model_dump_json().encode()

    async def _overview(self, _: Request) -> bytes:
        return json.dumps({"sessions": len(self._there)}).encode()

    async def _info(self, request: Request) -> bytes:
        return self._there.info(request.parts["id"]).model_dump_json().encode()

    async def _delete(self, request: Request) -> bytes:
        await self._there.delete(request.parts["id"])
        return b'{"deleted": true}'

    async def _run(self, request: Request) -> bytes:
        result = await self._there.run(request.parts["id"], RunCell.model_validate_json(request.body))
        self._broker.count(samples([result], result.cost))
        return result.model_dump_json(exclude={"tests"}).encode()

    async def _snapshot(self, request: Request) -> bytes:
        replace = TakeSnapshot.model_validate_json(request.body or b"{}").replace
        name = await self._there.snapshot(request.parts["id"], replace=replace)
        return json.dumps({"snapshot": name}).encode()

    async def _rollback(self, request: Request) -> bytes:
        name = await self._there.rollback(request.parts["id"], _target(request))
        return json.dumps({"snapshot": name}).encode()

    async def _commit(self, request: Request) -> bytes:
        await self._there.commit(request.parts["id"], _target(request))
        return b'{"committed": true}'

    async def _branch(self, request: Request) -> bytes:
        return (await self._there.branch(request.parts["id"], _target(request))).model_dump_json().encode()


def _handler(answer: Callable[[Request], Awaitable[bytes]]) -> Handler:
    async def handler(request: Request) -> Reply:
        try:
            return Reply(await answer(request))
        except SessionError as error:
            return Reply(json.dumps({"detail": error.detail}).encode(), error.status)

    return handler


def _target(request: Request) -> str | None:
    return GoTo.model_validate_json(request.body or b"{}").snapshot
