"""What Prometheus reads of this API process, and of the backlog all processes share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from goodsyard.breaker import Breaker
from goodsyard.queues import Depth


class _Skips(Collector):
    """Counts, as they stand, the calls that went on without Redis."""

    def __init__(self, breakers: Iterable[Breaker]) -> None:
        self._breakers = list(breakers)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "goodsyard_redis_skipped",
            "Calls answered without Redis: the rate limit let them pass, the cache was passed by.",
            labels=["use"],
        )
        for breaker in self._breakers:
            family.add_metric([breaker.name], breaker.skipped)
        yield family


class _Dropped(Collector):
    """What all workers have dropped, as it was read last."""

    def __init__(self) -> None:
        self.counts: Mapping[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "goodsyard_dropped",
            "Messages, or deliveries in them, that no worker ran, by reason; no job is lost by it.",
            labels=["reason"],
        )
        for reason, count in self.counts.items():
            family.add_metric([reason], count)
        yield family


class Metrics:
    """The metrics of one API process."""

    def __init__(self, breakers: Iterable[Breaker]) -> None:
        """Count from zero."""
        self._registry = CollectorRegistry()
        self._registry.register(_Skips(breakers))
        self._dropped = _Dropped()
        self._registry.register(self._dropped)
        self._requests = Histogram(
            "goodsyard_http_request_seconds",
            "Requests by route and status, and how long they took; waits and streams included.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._jobs = Gauge(
            "goodsyard_jobs",
            "Live and dead jobs by kind and state, over all tenants.",
            ["kind", "state"],
            registry=self._registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, status).observe(seconds)

    def render(self, depths: Sequence[Depth], dropped: Mapping[str, int]) -> bytes:
        """Return all metrics in Prometheus's text format."""
        self._dropped.counts = dropped
        self._jobs.clear()
        for depth in depths:
            self._jobs.labels(depth.kind, depth.state.value).inc(depth.jobs)
        return generate_latest(self._registry)
