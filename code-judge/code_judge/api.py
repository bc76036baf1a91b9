"""The HTTP service: the contract's endpoints in front of a broker."""

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from code_judge.asgi import Disconnected, Receive, Scope, Send, TooLarge, lifespan, read_body, reply, while_connected
from code_judge.broker import Broker, BrokerLost, Source
from code_judge.broker.memory import MemoryBroker
from code_judge.health import PROBE_SECONDS, SOURCE, NotReady, Probe
from code_judge.metrics import render, samples
from code_judge.sandbox.layers import LAYERS
from code_judge.settings import Settings, load_settings
from code_judge.tasks import spare_the_collector
from code_judge.wire import Batch, JudgeResult, RunBatchResult, RunResult, Submission
from code_judge.worker import Worker

logger = logging.getLogger(__name__)
_JUDGE_KEYS = set(JudgeResult.model_fields)


class Service:
    """An ASGI application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broker, source = _queue(settings)
        self.worker = Worker(source, settings) if source is not None else None
        self.routes: dict[tuple[str, str], Callable[[bytes], Awaitable[bytes]]] = {
            ("GET", "/ping"): self._ping,
            ("GET", "/ready"): self._ready,
            ("GET", "/status"): self._status,
            ("GET", "/metrics"): self._metrics,
        }
        self._alive = None if self.worker is None else Probe(self.worker.run_probe)
        self._can_serve = Probe(self._run_probe)
        for name, keys in (("judge", _JUDGE_KEYS), ("run", None)):
            self.routes["POST", f"/{name}"] = self._single(keys)
            self.routes["POST", f"/{name}/batch"] = self._batch(keys, wait=False)
            self.routes["POST", f"/{name}/long-batch"] = self._batch(keys, wait=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send, self.start, self.stop)
            return
        try:
            status, body = await self._answer(scope, receive)
        except Disconnected:
            return
        plain = status == 200 and scope["path"] == "/metrics"
        await reply(send, status, body, b"text/plain; version=0.0.4" if plain else b"application/json")

    async def start(self) -> None:
        await self.broker.start()
        if self.worker is not None:
            await self.worker.start()
        spare_the_collector()

    async def stop(self) -> None:
        if self.worker is not None:
            await self.worker.stop()
        await self.broker.stop()

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        route = self.routes.get((scope["method"], scope["path"]))
        if route is None:
            known = any(path == scope["path"] for _, path in self.routes)
            return (405, _detail("method not allowed")) if known else (404, _detail("not found"))
        limit = self.settings.max_body_size
        try:
            body = await read_body(scope, receive, limit)
            return 200, await while_connected(receive, route(body))
        except TooLarge:
            return 413, _detail(f"the body is larger than {limit} bytes (MAX_BODY_SIZE)")
        except (BrokerLost, NotReady) as error:
            return 503, _detail(str(error))
        except ValidationError as error:
            return 422, _detail(error.errors(include_url=False, include_input=False, include_context=False))
        except Disconnected:
            raise
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            return 500, _detail("internal error; see the service's log")

    async def _ping(self, _: bytes) -> bytes:
        """Whether this process works: where it runs programs, its sandbox has to run one."""
        if self._alive is not None:
            await self._alive.check()
        return b'"pong"'

    async def _ready(self, _: bytes) -> bytes:
        """Whether a submission would get a verdict: one goes all the way, through the queue to a worker."""
        await self._can_serve.check()
        return b'{"ready": true}'

    async def _run_probe(self) -> str:
        results = await self.broker.submit([Submission(type="python", solution=SOURCE)], life_time=PROBE_SECONDS)
        return results[0].stdout or str(results[0].reason)

    async def _status(self, _: bytes) -> bytes:
        status = await self.broker.status()
        layers = {layer: all(layer in worker.isolation for worker in status.workers) for layer in LAYERS}
        return json.dumps(
            {
                "queue": status.queued,
                "num_workers": sum(worker.slots for worker in status.workers),
                "busy": sum(worker.busy for worker in status.workers),
                "workers": len(status.workers),
                # Of several workers, what all of them have.
                "isolation": [layer for layer, everywhere in layers.items() if everywhere and status.workers],
            }
        ).encode()

    async def _metrics(self, _: bytes) -> bytes:
        return render(await self.broker.status()).encode()

    def _single(self, keys: set[str] | None) -> Callable[[bytes], Awaitable[bytes]]:
        async def endpoint(body: bytes) -> bytes:
            submission = Submission.model_validate_json(body)
            results = await self._run([submission], wait=False)
            return results[0].model_dump_json(include=keys).encode()

        return endpoint

    def _batch(self, keys: set[str] | None, *, wait: bool) -> Callable[[bytes], Awaitable[bytes]]:
        include: Any = None if keys is None else {"sub_id": True, "results": {"__all__": keys}}

        async def endpoint(body: bytes) -> bytes:
            batch = Batch.model_validate_json(body)
            results = await self._run(batch.submissions, wait=wait)
            return RunBatchResult(sub_id=batch.sub_id, results=results).model_dump_json(include=include).encode()

        return endpoint

    async def _run(self, submissions: list[Submission], *, wait: bool) -> list[RunResult]:
        life_time = None if wait else self.settings.max_queue_work_life_time
        start = time.monotonic()
        results = await self.broker.submit(submissions, life_time=life_time)
        self.broker.count(samples(results, time.monotonic() - start))
        return results


def create_app(settings: Settings | None = None) -> Service:
    return Service(settings or load_settings())


def _queue(settings: Settings) -> tuple[Broker, Source | None]:
    """The broker, and what this process's own worker takes from."""
    if settings.redis_uri is None:
        queue = MemoryBroker()
        return queue, queue
    # Imported where it is used: a service without Redis starts without it.
    from code_judge.broker.redis_api import RedisBroker
    from code_judge.broker.redis_worker import RedisSource

    broker = RedisBroker(settings.redis_uri, patience=settings.redis_patience)
    source = RedisSource(settings.redis_uri, deliveries=settings.max_deliveries) if settings.run_workers else None
    return broker, source


def _detail(detail: object) -> bytes:
    return json.dumps({"detail": detail}).encode()
