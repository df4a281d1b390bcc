"""How long a tenant's job waits beside another's backlog, and in which order jobs start."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import uvloop

from benchmarks import marks
from benchmarks.flow import laws
from benchmarks.flow.cluster import Cluster, cluster
from benchmarks.flow.jobs import LongWork, Work
from benchmarks.producer import connected
from benchmarks.yard import Shop

Result: TypeAlias = dict[str, Any]  # JSON

BACKLOG, QUICK_BACKLOG = 100_000, 30_000
LONG_BACKLOG, QUICK_LONG_BACKLOG = 5_000, 1_500
"""Of jobs that take 10 ms each."""

EVERY_SECONDS = 0.05
"""A stream's next job."""

_A, _B = 1, 2
_STREAMED = 10**9
"""The first number of a stream; each stream has as many again."""

_ALONE_SECONDS = 5.0
_SHARES = {3: 3.0, 4: 1.0}
_ORDER_JOBS = 20_000
_SHARED_JOBS = 30_000
_POINTS = 200


@dataclass(frozen=True, slots=True)
class _Stream:
    """A tenant that hands in one job after the other."""

    name: str
    tenant: int
    priority: int = 5


_NORMAL = _Stream("beside another's backlog", _B)
_URGENT = _Stream("urgent, beside another's backlog", _B, 0)
_OWN_URGENT = _Stream("urgent, beside its own backlog", _A, 0)
_OWN = _Stream("behind its own backlog", _A)


def measure(shop: Shop, *, quick: bool) -> Result:
    """Measure the waits of B alone, beside A's backlog, urgently so, and as if it were A."""
    backlog = QUICK_BACKLOG if quick else BACKLOG
    long_backlog = QUICK_LONG_BACKLOG if quick else LONG_BACKLOG
    waits = _run(shop, Work, 0, [_Stream("alone", _B)])
    for streams in ([_NORMAL], [_URGENT, _OWN_URGENT], [_OWN]):
        waits |= _run(shop, Work, backlog, streams)
    long_waits = _run(shop, LongWork, long_backlog, [_NORMAL, _URGENT])
    return {
        "backlog": backlog,
        "long_backlog": long_backlog,
        "every_seconds": EVERY_SECONDS,
        "waits": {name: _summary(values) for name, values in waits.items()},
        "long_waits": {name: _summary(values) for name, values in long_waits.items()},
    }


def _run(
    shop: Shop, kind: type[Work | LongWork], backlog: int, streams: Sequence[_Stream]
) -> dict[str, list[float]]:
    """Return the seconds from before each submit to the job's commit, by stream."""
    with cluster(shop) as yard:
        yard.start_all()
        if backlog:
            yard.backlog(kind, backlog, tenant=_A)
            yard.execute("ANALYZE goodsyard.job")
        sent = uvloop.run(_stream(yard, kind, streams, _until(yard, backlog)))
        jobs = sum(map(len, sent))
        yard.await_marks(backlog + jobs)
        found = dict(yard.marked(_STREAMED, _STREAMED * (len(streams) + 1)))
    return {
        stream.name: [(found[number] - moment) / 1e9 for number, moment in of_stream.items()]
        for stream, of_stream in zip(streams, sent, strict=True)
    }


def _until(yard: Cluster, backlog: int) -> Callable[[], bool]:
    """Return what says that the backlog is gone, or without one that it has been long enough."""
    end = time.monotonic() + _ALONE_SECONDS
    if backlog == 0:
        return lambda: time.monotonic() > end
    return lambda: marks.count(yard.ground.marks) >= backlog


async def _stream(
    yard: Cluster,
    kind: type[Work | LongWork],
    streams: Sequence[_Stream],
    over: Callable[[], bool],
) -> list[dict[int, int]]:
    async def send(place: int, stream: _Stream) -> dict[int, int]:
        sent: dict[int, int] = {}
        async with connected(yard.ground, stream.tenant) as producer:
            begin = time.monotonic()
            for number in count():
                due = begin + (number + place / len(streams)) * EVERY_SECONDS
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if over():
                    return sent
                name = _STREAMED * (place + 1) + number
                sent[name] = time.monotonic_ns()
                async with producer.batch() as batch:
                    batch.add(kind(number=name), priority=stream.priority)
        return sent

    return await asyncio.gather(*(send(place, stream) for place, stream in enumerate(streams)))


def _summary(waits: Sequence[float]) -> Result:
    return {
        "jobs": len(waits),
        "p50": laws.percentile(waits, 0.5),
        "p99": laws.percentile(waits, 0.99),
        "max": max(waits),
        "curve": [
            round(laws.percentile(waits, point / _POINTS), 5) for point in range(_POINTS + 1)
        ],
    }


def measure_order(shop: Shop, *, quick: bool) -> Result:
    """Measure in which order one tenant's jobs of all priorities take effect."""
    jobs = _ORDER_JOBS // 2 if quick else _ORDER_JOBS
    with cluster(shop) as yard:
        yard.backlog(Work, jobs, mixed=True)
        yard.start_all()
        yard.await_marks(jobs)
        found = yard.marked(0, jobs)
    # As the backlog's statement has it.
    places: defaultdict[int, list[float]] = defaultdict(list)
    for place, (number, _) in enumerate(found):
        places[(number + 1) * 7919 % 10].append(place / jobs)
    return {
        "jobs": jobs,
        "places": {
            str(priority): [laws.percentile(of_it, part) for part in (0.05, 0.5, 0.95)]
            for priority, of_it in sorted(places.items())
        },
    }


def measure_shares(shop: Shop, *, quick: bool) -> Result:
    """Measure how two tenants' jobs mix whose weights are 3 and 1."""
    jobs = _SHARED_JOBS // 3 if quick else _SHARED_JOBS
    with cluster(shop) as yard:
        for tenant, weight in _SHARES.items():
            yard.execute(
                "INSERT INTO goodsyard.share (tenant, weight) VALUES (%(tenant)s, %(weight)s)",
                tenant=tenant,
                weight=weight,
            )
            yard.backlog(Work, jobs, first=tenant * _STREAMED, tenant=tenant)
        yard.start_all()
        yard.await_marks(len(_SHARES) * jobs)
        found = yard.marked(0, _STREAMED * 10)
    # While both have jobs: as many as the heavier one has, and the lighter one's part beside them.
    both = [number // _STREAMED for number, _ in found[:jobs]]
    heavy, light = (both.count(tenant) for tenant in _SHARES)
    return {"weights": [*_SHARES.values()], "jobs": [heavy, light], "ratio": heavy / light}
