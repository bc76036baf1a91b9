"""/session: which action answers which request."""

import json
import logging
from collections import OrderedDict

from code_judge.asgi import Handler, Reply, Request, Routes
from code_judge.broker import Broker
from code_judge.gate import REQUEST_ID, RETRY_SECONDS
from code_judge.metrics import CELLS, SESSIONS_LOST, samples
from code_judge.sessions.actions import ACTIONS, Nothing, Service
from code_judge.sessions.wire import CellResult, SessionError, Trouble

logger = logging.getLogger(__name__)

_REMEMBERED = 10_000
_OURS = (Trouble.LOST, Trouble.NOT_OPENED, Trouble.QUEUE_TIMEOUT, Trouble.INTERNAL_ERROR)
_ENDPOINTS = (
    ("POST", "/session", "open"),
    ("GET", "/session/{id}", "info"),
    ("DELETE", "/session/{id}", "delete"),
    *(("POST", f"/session/{{id}}/{name}", name) for name in ("run", "snapshot", "rollback", "commit", "branch")),
)


class SessionFront:
    """broker: counts cells with the other submissions."""

    def __init__(self, service: Service, broker: Broker) -> None:
        self._service = service
        self._broker = broker
        self._lost: OrderedDict[str, None] = OrderedDict()

    def add_to(self, routes: Routes) -> None:
        for method, path, action in _ENDPOINTS:
            routes.add(method, path, self._handler(action))
        routes.add("GET", "/session", self._overview)

    def _handler(self, action: str) -> Handler:
        takes = ACTIONS[action].takes

        async def handler(request: Request) -> Reply:
            name = request.parts.get("id", "")
            body = takes.model_validate_json((takes is not Nothing and request.body) or b"{}")
            try:
                reply = await self._service.call(action, name, body)
            except SessionError as error:
                if error.trouble in _OURS:
                    logger.warning("request %s: session %s: %s: %s", REQUEST_ID.get(), name, error.trouble, error)
                if error.trouble is Trouble.LOST:
                    self._count_lost(name)
                again = ((b"retry-after", str(RETRY_SECONDS).encode()),) if error.trouble is Trouble.TOO_MANY else ()
                return Reply(json.dumps({"detail": error.detail}).encode(), error.status, headers=again)
            if action == "run":
                result = CellResult.model_validate_json(reply)
                self._broker.count(samples([result], result.cost) | {CELLS: 1})
            return Reply(reply)

        return handler

    async def _overview(self, _: Request) -> Reply:
        return Reply(json.dumps({"sessions": (await self._service.places()).open}).encode())

    def _count_lost(self, name: str) -> None:
        """Each once, as far as this process knows."""
        if name not in self._lost:
            self._lost[name] = None
            self._broker.count({SESSIONS_LOST: 1})
        while len(self._lost) > _REMEMBERED:
            self._lost.popitem(last=False)
