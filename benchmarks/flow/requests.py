"""What the other parts take: bulks and equal requests over HTTP, workflows, ticks and progress."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

import aiohttp

from benchmarks.flow.cluster import Cluster, cluster
from benchmarks.flow.jobs import EACH_SECOND, Work
from benchmarks.processes import BenchmarkError
from benchmarks.yard import TENANT, Shop
from goodsyard.contracts import Contract
from goodsyard.database import open_engine, session_factory
from goodsyard.run import Run
from goodsyard.submit import Staged, stage
from goodsyard.workflows import Step, stage_workflow

Result: TypeAlias = dict[str, Any]  # JSON

BULK = 10_000
EQUAL, QUICK_EQUAL = 1_000, 200
"""Requests at once."""
WIDTH, QUICK_WIDTH = 1_000, 200
"""Steps between the first of a workflow and the last, which waits for all of them."""
WORDS = 1_000_000

_TIMES, _QUICK_TIMES = 3, 1
_CONNECTIONS = 100
_TICKS = 20
_AT_ONCE = 500  # rows an insert

_JOBS_OF = "SELECT count(*) FROM goodsyard.job WHERE kind = 'payments.reconcile'"
_DELAYS = """
SELECT coalesce(array_agg(extract(epoch FROM at - tick)::float8 ORDER BY at - tick), '{}')
  FROM goodsyard.schedule_tick WHERE schedule = %(name)s
"""


def measure(shop: Shop, *, quick: bool) -> Result:
    """Measure each."""
    times = _QUICK_TIMES if quick else _TIMES
    width = QUICK_WIDTH if quick else WIDTH
    return {
        **_over_http(shop, QUICK_EQUAL if quick else EQUAL, times),
        "workflow": [_workflow(shop, width) for _ in range(times)],
        "width": width,
        "ticks": _ticks(shop),
        "word": _word(),
    }


def _over_http(shop: Shop, equal: int, times: int) -> Result:
    with cluster(shop) as yard:
        asked = asyncio.run(_ask_all(yard.start_api(), yard.api_key, equal, times))
        return asked | {"runs": yard.number(_JOBS_OF)}


async def _ask_all(address: str, api_key: str, equal: int, times: int) -> Result:
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(address, connector=connector, headers=headers) as http:
        bulks = [await _bulk(http, number) for number in range(times)]
        began = time.perf_counter()
        answers = await asyncio.gather(*(_ask(http, number) for number in range(equal)))
        took = time.perf_counter() - began
    if len(set(answers)) != 1:
        raise BenchmarkError(f"{len(set(answers))} jobs stand for one request")
    return {"bulk": bulks, "equal": equal, "equal_seconds": took}


async def _bulk(http: aiohttp.ClientSession, number: int) -> float:
    jobs = [
        {"kind": "notifications.email", "payload": {"to": f"a{n}@example.com", "body": "Hello"}}
        for n in range(BULK)
    ]
    began = time.perf_counter()
    answer = await _post(http, "/v1/jobs/bulk", {"jobs": jobs}, f"bulk {number}")
    took = time.perf_counter() - began
    refused = sum(result["status"] != 202 for result in answer["results"])  # noqa: PLR2004 - accepted
    if refused:
        raise BenchmarkError(f"{refused} jobs of a bulk were refused")
    return took


async def _ask(http: aiohttp.ClientSession, number: int) -> str:
    day = {"since": "2026-06-01T00:00:00Z", "until": "2026-06-02T00:00:00Z"}
    body = {"kind": "payments.reconcile", "payload": day}
    answer = await _post(http, "/v1/jobs", body, f"equal {number}")
    job: str = answer["job"]["id"]
    return job


async def _post(
    http: aiohttp.ClientSession, path: str, body: Mapping[str, Any], key: str
) -> dict[str, Any]:
    async with http.post(path, json=body, headers={"Idempotency-Key": key}) as response:
        answer: dict[str, Any] = await response.json()
    if not response.ok:
        raise BenchmarkError(f"{path} answered {response.status}: {answer}")
    return answer


def _workflow(shop: Shop, width: int) -> list[float]:
    """Return the seconds from commit to last effect, of plain jobs and of as many steps."""
    return [_run(shop, width, as_steps=False), _run(shop, width, as_steps=True)]


def _run(shop: Shop, width: int, *, as_steps: bool) -> float:
    with cluster(shop) as yard:
        yard.start_all()
        began = time.monotonic_ns()
        asyncio.run(_stage(yard, width, as_steps=as_steps))
        yard.await_marks(width + 2)
        return (yard.marked(0, width + 2)[-1][1] - began) / 1e9


async def _stage(yard: Cluster, width: int, *, as_steps: bool) -> None:
    works: list[Contract] = [Work(number=number) for number in range(width + 2)]
    engine = open_engine(yard.ground.sqlalchemy, pool_size=1, application_name="benchmarks")
    async with session_factory(engine).begin() as tx:
        if as_steps:
            names = [str(number) for number in range(1, width + 1)]
            fan = [
                Step(name, work, after=["first"])
                for name, work in zip(names, works[1:-1], strict=True)
            ]
            steps = [Step("first", works[0]), *fan, Step("last", works[-1], after=names)]
            await stage_workflow(tx, TENANT, steps)
        else:
            for first in range(0, len(works), _AT_ONCE):
                await stage(tx, [Staged(TENANT, work) for work in works[first : first + _AT_ONCE]])
    await engine.dispose()


def _ticks(shop: Shop) -> list[float]:
    """Return how long after its time each of some ticks was carried out, in seconds."""
    with cluster(shop) as yard:
        yard.start_all()
        ticked = "SELECT count(*) FROM goodsyard.schedule_tick WHERE schedule = %(name)s"
        yard.wait("ticks", lambda: yard.number(ticked, name=EACH_SECOND), _TICKS)
        [delays] = yard.row(_DELAYS, name=EACH_SECOND)
        return list(delays)


def _word() -> float:
    """Return what a job pays for saying how far it is, in seconds a word."""
    run = Run()
    began = time.perf_counter()
    for number in range(WORDS):
        run.progress(number / WORDS, "page")
    return (time.perf_counter() - began) / WORDS


def middle(runs: list[list[float]], which: int) -> float:
    """Return the median of one of the figures of each run."""
    return statistics.median(run[which] for run in runs)
