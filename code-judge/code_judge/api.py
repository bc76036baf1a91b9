"""The HTTP service: the fronts' endpoints before a broker, from the first request to the last."""

import asyncio
import json
import logging

from pydantic import ValidationError

from code_judge.asgi import (
    Disconnected,
    Receive,
    Refused,
    Reply,
    Request,
    Routes,
    Scope,
    Send,
    lifespan,
    send_reply,
    while_connected,
)
from code_judge.broker import Broker, BrokerLost, Source
from code_judge.broker.memory import MemoryBroker
from code_judge.fronts.contract import Contract
from code_judge.fronts.openapi import OpenApi
from code_judge.fronts.operations import Operations
from code_judge.fronts.sandbox_fusion import SandboxFusion
from code_judge.gate import REQUEST_ID, Gate, request_id
from code_judge.health import NotReady
from code_judge.sessions.routes import SessionFront
from code_judge.sessions.setup import Held, service
from code_judge.settings import Settings, load_settings
from code_judge.tasks import spare_the_collector
from code_judge.worker import Worker

logger = logging.getLogger(__name__)


class Service:
    """An ASGI application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broker, source = _queue(settings)
        self.worker = Worker(source, settings) if source is not None else None
        self._held = Held(settings, self.worker.admitted) if self.worker is not None else None
        self._sessions = service(settings, self._held)
        self._gate = Gate(settings)
        self.routes = Routes()
        contract = Contract(self.broker, settings)
        for front in (
            contract,
            SandboxFusion(contract.run, settings),
            SessionFront(self._sessions, self.broker),
            Operations(self.broker, self.worker, self._sessions),
            OpenApi(),
        ):
            front.add_to(self.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send, self.start, self.stop)
            return
        id_ = request_id(scope)
        REQUEST_ID.set(id_)
        try:
            reply = await self._answer(scope, receive)
        except Disconnected:
            logger.info("request %s: %s, the client went away", id_, scope["path"])
            return
        except asyncio.CancelledError:
            # By the server, which has waited for the request as long as it may.
            reply = problem(503, "the service is about to end; try again", (b"retry-after", b"1"))
        await send_reply(send, reply, (b"x-request-id", id_.encode()))

    async def start(self) -> None:
        await self.broker.start()
        if self.worker is not None:
            await self.worker.start()
        if self._held is not None:
            await self._held.start()
        await self._sessions.start()
        spare_the_collector()

    async def stop(self) -> None:
        await self._sessions.stop()
        if self._held is not None:
            await self._held.stop()
        if self.worker is not None:
            await self.worker.stop()
        await self.broker.stop()

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        try:
            client = self._gate.client(scope)
            handler, parts, methods = self.routes.find(scope["method"], scope["path"])
            if handler is None and methods:
                raise Refused(405, "Method Not Allowed", (b"allow", ", ".join(methods).encode()))
            if handler is None:
                raise Refused(404, "Not Found")
            body = await self._gate.body(scope, receive)
            return await while_connected(receive, handler(Request(scope, body, parts, client)))
        except Refused as refusal:
            return problem(refusal.status, refusal.detail, *refusal.headers)
        except (BrokerLost, NotReady) as error:
            return problem(503, str(error))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            return problem(422, [{**entry, "loc": ["body", *entry["loc"]]} for entry in found])
        except Disconnected:
            raise
        except Exception:
            logger.exception("request %s: %s %s failed", REQUEST_ID.get(), scope["method"], scope["path"])
            return problem(500, "internal error; see the service's log")


def create_app(settings: Settings | None = None) -> Service:
    return Service(settings or load_settings())


def problem(status: int, detail: object, *headers: tuple[bytes, bytes]) -> Reply:
    return Reply(json.dumps({"detail": detail}).encode(), status, headers=headers)


def _queue(settings: Settings) -> tuple[Broker, Source | None]:
    """The broker, and what this process's own worker takes from."""
    if settings.redis_uri is None:
        queue = MemoryBroker()
        return queue, queue
    # Imported where it is used: a service without Redis starts without it.
    from code_judge.broker.redis_api import RedisBroker
    from code_judge.broker.redis_worker import RedisSource

    uri, prefix = settings.redis_uri, settings.redis_key_prefix
    broker = RedisBroker(uri, prefix=prefix, patience=settings.redis_patience)
    if not settings.run_workers:
        logger.info("this process runs no programs (RUN_WORKERS=0); run_workers.py does")
        return broker, None
    return broker, RedisSource(uri, prefix=prefix, deliveries=settings.max_deliveries)
