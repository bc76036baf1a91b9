"""For those who run the service: /ping, /ready, /status and /metrics."""

import json
from typing import Any

from code_judge.asgi import Reply, Request, Routes
from code_judge.broker import Broker
from code_judge.health import PROBE_SECONDS, SOURCE, Probe
from code_judge.metrics import render
from code_judge.sandbox.layers import LAYERS
from code_judge.sessions.actions import Service
from code_judge.wire import Submission
from code_judge.worker import Worker


class Operations:
    def __init__(self, broker: Broker, worker: Worker | None, sessions: Service) -> None:
        """worker: of this process."""
        self._sessions = sessions
        self._broker = broker
        self._alive = None if worker is None else Probe(worker.run_probe)
        self._can_serve = Probe(self._run_probe)

    def add_to(self, routes: Routes) -> None:
        routes.add("GET", "/ping", self._ping)
        routes.add("GET", "/ready", self._ready)
        routes.add("GET", "/status", self._status)
        routes.add("GET", "/metrics", self._metrics)

    async def _ping(self, _: Request) -> Reply:
        """Whether this process works: where it runs programs, its sandbox has to run one."""
        if self._alive is not None:
            await self._alive.check()
        return Reply(b'"pong"')

    async def _ready(self, _: Request) -> Reply:
        """Whether a submission would get a verdict: one goes all the way, through the queue to a worker."""
        await self._can_serve.check()
        return Reply(b'{"ready": true}')

    async def _run_probe(self) -> str:
        submission = Submission(type="python", solution=SOURCE)
        results = await self._broker.submit([submission], life_time=PROBE_SECONDS, long=False)
        return results[0].stdout or str(results[0].reason)

    async def _status(self, request: Request) -> Reply:
        status = await self._broker.status()
        reply: dict[str, Any] = {
            "queue": status.queued,
            "num_workers": sum(worker.slots for worker in status.workers),
        }
        if request.wants_extra:
            # Of several workers, the layers that all of them have.
            layers = {layer: all(layer in worker.isolation for worker in status.workers) for layer in LAYERS}
            places = await self._sessions.places()
            reply |= {
                "sessions": places.open,
                "max_sessions": places.most,
                "busy": sum(worker.busy for worker in status.workers),
                "workers": len(status.workers),
                "isolation": [layer for layer, everywhere in layers.items() if everywhere and status.workers],
            }
        return Reply(json.dumps(reply).encode())

    async def _metrics(self, _: Request) -> Reply:
        return Reply(
            render(await self._broker.status(), await self._sessions.places()).encode(),
            content_type=b"text/plain; version=0.0.4",
        )
