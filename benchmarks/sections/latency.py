"""How long a lone job waits for its start, on a system that is up, warm and idle.

From before the producer's call to the job's mark, as for the peers; ``(from commit)`` leaves out
what the call itself took. ``at 10 jobs/s`` sends by the clock, whatever became of the last one.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Self, TypeAlias

import aiohttp
import uvloop

from benchmarks import marks
from benchmarks.arms import Arm, Figures
from benchmarks.jobs import Noop
from benchmarks.processes import BenchmarkError
from benchmarks.producer import connected
from benchmarks.sections.queue import SYSTEM
from benchmarks.yard import Shop, Yard

_SAMPLES = 300
_WARM_SECONDS = 3.0  # as for the peers: the second worker process may be up a second later
_GAP_SECONDS = (0.008, 0.020)
_PACE_SECONDS = 0.1
_LOOK_SECONDS = 0.002
_MOST_SECONDS = 30.0  # a worker comes up in that, and a lost wake-up is made good

_FROM_COMMIT = f"{SYSTEM} (from commit)"
_OVER_HTTP = f"{SYSTEM} over HTTP"
_PACED = f"{SYSTEM} at 10 jobs/s"

_Send: TypeAlias = Callable[[int], Awaitable[None]]
"""Hands the job of a number in, and returns once it is committed."""


def arms(shop: Shop) -> list[Arm]:
    """Return Goodsyard's arms of ``latency``, which fills ``latency_p50`` and ``latency_p99``."""
    return [
        Arm("latency", system, _SAMPLES, partial(_run, shop, system), warms_up=False)
        for system in (SYSTEM, _OVER_HTTP, _PACED)
    ]


def _run(shop: Shop, system: str, samples: int) -> Figures:
    with shop.yard() as yard:
        yard.start_relay()
        yard.start_workers()
        producer = _over_http(yard) if system == _OVER_HTTP else _in_python(yard)
        sent = uvloop.run(
            _Sending(yard.ground.marks).all(producer, samples, paced=system == _PACED)
        )
        started = _starts(yard.ground.marks, len(sent.called))
    figures = _percentiles(system, sent.called, started, samples)
    if system == SYSTEM:
        from_commit = _percentiles(_FROM_COMMIT, sent.committed, started, samples)
        figures = {section: figures[section] | from_commit[section] for section in figures}
    return figures


class _Sending:
    """Sends jobs, and keeps the moments of each call by the job's number, in nanoseconds."""

    def __init__(self, folder: Path) -> None:
        self._marks = folder
        self.called: list[int] = []
        self.committed: list[int] = []

    async def all(
        self, producer: AbstractAsyncContextManager[_Send], samples: int, *, paced: bool
    ) -> Self:
        async with producer as send:
            await self._one(send)  # takes as long as a worker takes to come up
            warm = time.monotonic() + _WARM_SECONDS
            while time.monotonic() < warm:
                await self._one(send)
            if paced:
                await self._by_the_clock(send, samples)
            else:
                for _ in range(samples):
                    await self._one(send)
        return self

    async def _one(self, send: _Send) -> None:
        await self._send(send)
        await self._until_all_started()
        await asyncio.sleep(random.uniform(*_GAP_SECONDS))  # noqa: S311 - protects nothing

    async def _by_the_clock(self, send: _Send, samples: int) -> None:
        begin = time.monotonic()
        for number in range(samples):
            await asyncio.sleep(begin + number * _PACE_SECONDS - time.monotonic())
            await self._send(send)
        await self._until_all_started()

    async def _send(self, send: _Send) -> None:
        self.called.append(time.monotonic_ns())
        await send(len(self.called) - 1)
        self.committed.append(time.monotonic_ns())

    async def _until_all_started(self) -> None:
        until = time.monotonic() + _MOST_SECONDS
        while marks.count(self._marks) < len(self.called):
            if time.monotonic() > until:
                raise BenchmarkError(f"a lone job did not start within {_MOST_SECONDS:.0f} s")
            await asyncio.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def _in_python(yard: Yard) -> AsyncIterator[_Send]:
    """Submit each job with a commit of its own."""
    async with connected(yard.ground) as producer:

        async def send(number: int) -> None:
            await producer.submit(Noop(number=number))

        yield send


@asynccontextmanager
async def _over_http(yard: Yard) -> AsyncIterator[_Send]:
    """Post each job to an API process, over one connection."""
    address = yard.start_api("-m", "benchmarks.cli", "api")
    authorization = {"Authorization": f"Bearer {yard.api_key}"}
    async with aiohttp.ClientSession(address, headers=authorization) as session:

        async def send(number: int) -> None:
            job = {"kind": Noop.kind, "payload": {"number": number}}
            key = {"Idempotency-Key": f"job-{number}"}
            async with session.post("/v1/jobs", json=job, headers=key) as response:
                if response.status != HTTPStatus.ACCEPTED:
                    raise BenchmarkError(f"the API answered {response.status}")
                await response.read()

        yield send


def _starts(folder: Path, jobs: int) -> dict[int, int]:
    try:
        marks.rate(folder, range(jobs))  # each ran, and once
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    return dict(marks.read(folder))


def _percentiles(
    system: str, since: Sequence[int], started: Mapping[int, int], samples: int
) -> Figures:
    """Return p50 and p99 of the last ``samples`` jobs' waits, in milliseconds."""
    numbers = range(len(since) - samples, len(since))
    waits = [(started[number] - since[number]) / 1e6 for number in numbers]
    percentiles = statistics.quantiles(waits, n=100, method="inclusive")
    return {"latency_p50": {system: percentiles[49]}, "latency_p99": {system: percentiles[98]}}
