"""The training loop's Prometheus metrics, served at `trainer.metrics_address`.

Gauges: the lines of `report.panels`, of the last step. Counters: calls, rollbacks, retries and tokens since the start.
The judge serves its own metrics. docs/grafana.json is a dashboard of both.
"""

import collections
import logging
import math
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from verl_cleaner.report.panels import PANELS
from verl_cleaner.saar.outcome import FailureKind
from verl_cleaner.saar.record import Record

logger = logging.getLogger(__name__)

_RATIOS = tuple(i / 10 for i in range(1, 11))


class LoopMetrics:
    """Of one run; `serve` makes them readable over HTTP."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._step = Gauge("cleaner_step", "Steps done.", registry=registry)
        self._gauges = [
            (line, Gauge(line.prometheus, f"{panel.title}. {panel.note}", registry=registry))
            for panel in PANELS
            for line in panel.lines
        ]
        for _, gauge in self._gauges:
            gauge.set(math.nan)  # not known yet
        self._phases = Gauge("cleaner_phase_seconds", "Of the last step.", ["phase"], registry=registry)
        self._calls = Counter("cleaner_tool_calls", "By how they ended.", ["outcome"], registry=registry)
        self._turns = Counter("cleaner_rollbacks", "Rolled-back turns.", ["result"], registry=registry)
        self._retried = Counter("cleaner_retried_turns", "By number of retries.", ["retries"], registry=registry)
        self._retries = Counter("cleaner_retries", "By what became of them.", ["result"], registry=registry)
        self._tokens = Counter("cleaner_tokens", "Sampled tokens.", ["use"], registry=registry)
        self._lost_groups = Counter("cleaner_lost_groups", "Groups lost to outages.", registry=registry)
        self._similarity = Histogram(
            "cleaner_similarity", "Of failed and new call.", buckets=_RATIOS, registry=registry
        )

    def serve(self, address: str) -> int:
        """address: HOST:PORT, port 0 for a free one. Returns the port.

        Raises:
            ValueError: it cannot be bound.
        """
        host, _, port = address.rpartition(":")
        try:
            server, _ = start_http_server(int(port), addr=host, registry=self.registry)
        except OSError as error:
            raise ValueError(
                f"trainer.metrics_address={address} cannot be bound: {error}; name another port, or null for none"
            ) from error
        logger.info("Prometheus metrics on http://%s:%d/metrics", host, server.server_port)
        return int(server.server_port)

    def validated(self, metrics: Mapping[str, float]) -> None:
        """metrics: of a validation, as logged."""
        self._set(metrics)

    def _set(self, metrics: Mapping[str, float]) -> None:
        for line, gauge in self._gauges:
            value = line.read(metrics)
            if value is not None:
                gauge.set(value)

    def stepped(self, step: int, metrics: Mapping[str, float], records: Sequence[Record]) -> None:
        """metrics: as logged. records: of the step's trajectories."""
        self._step.set(step)
        self._set(metrics)
        self._phases.clear()  # a phase such as validation belongs to the steps that had it
        for key, value in metrics.items():
            if key.startswith("timing_s/"):
                self._phases.labels(key.removeprefix("timing_s/")).set(value)
        self._lost_groups.inc(metrics.get("infrastructure/lost_groups", 0))
        for use in ("kept", "discarded"):
            self._tokens.labels(use).inc(max(0.0, metrics.get(f"tokens/{use}", 0.0)))
        for record in records:
            self._count(record)

    def _count(self, record: Record) -> None:
        for attempt in record["attempts"]:
            for kind in attempt["kinds"]:
                self._calls.labels(outcome_label(kind)).inc()
        for result in ("recovered", "failed"):
            self._turns.labels(result).inc(record[result])
        for retries in collections.Counter(retry["turn"] for retry in record["retries"]).values():
            self._retried.labels(str(retries)).inc()
        for retry in record["retries"]:
            self._retries.labels(str(retry["result"])).inc()
            if retry["similarity"] is not None:
                self._similarity.observe(retry["similarity"])


def outcome_label(kind: str | None) -> str:
    """All exceptions share one label: a policy can raise exceptions of any name, and labels must stay few."""
    if kind is None:
        return "ok"
    return str(kind) if kind in set(FailureKind) else "exception"


def check_address(address: object) -> str | None:
    """What is wrong with `trainer.metrics_address`, None where nothing is."""
    host, _, port = str(address).rpartition(":")
    if address is None or (host and port.isdigit() and int(port) < 1 << 16):
        return None
    return f"trainer.metrics_address must be HOST:PORT, e.g. 127.0.0.1:9108, or null, got {address}"
