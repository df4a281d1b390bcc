"""The rate at which jobs go in, and at which they are carried out once the queue is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import uvloop

from benchmarks import marks, producer
from benchmarks.arms import Arm, Figures
from benchmarks.jobs import Nap, Noop
from benchmarks.processes import BenchmarkError
from benchmarks.yard import Shop, Yard
from goodsyard.contracts import Contract

SYSTEM = "goodsyard"
SOME_HANG = f"{SYSTEM} while 1 call in 100 hangs"

_HANGING_SECONDS = 10.0

_JOBS = {"noop": 100_000, "io50": 20_000, "enqueue": 50_000}


def arms(shop: Shop) -> list[Arm]:
    """Return Goodsyard's arms of ``noop``, ``io50`` and ``enqueue``."""
    runs: dict[str, Callable[[int], Figures]] = {
        "noop": partial(_drain, shop, "noop", Noop),
        "io50": partial(_drain, shop, "io50", Nap),
        "enqueue": partial(_enqueue, shop),
    }
    arms = [Arm(section, SYSTEM, _JOBS[section], run) for section, run in runs.items()]
    return [*arms, Arm("io50", SOME_HANG, _JOBS["io50"], partial(_drain_while_some_hang, shop))]


def drain(yard: Yard, jobs: Sequence[Noop | Nap]) -> float:
    """Fill the queue, then start a relay and one worker node; return jobs a second.

    From the first job's mark to the last one's; that each ran once, and is in the history, is
    checked.

    Raises:
        BenchmarkError: a job didn't run, or not once.
    """
    fill(yard, jobs)
    yard.start_relay()
    yard.start_workers()
    yard.await_marks(len(jobs))
    yard.await_done(jobs[0].kind, len(jobs))
    try:
        return marks.rate(yard.ground.marks, [job.number for job in jobs])
    except ValueError as error:
        raise BenchmarkError(str(error)) from error


def fill(yard: Yard, contracts: Sequence[Contract]) -> None:
    """Hand jobs in while nobody works."""
    uvloop.run(producer.submit(yard.ground, contracts))


def _drain(shop: Shop, section: str, kind: type[Noop | Nap], jobs: int) -> Figures:
    with shop.yard() as yard:
        return {section: {SYSTEM: drain(yard, [kind(number=n) for n in range(jobs)])}}


def _drain_while_some_hang(shop: Shop, jobs: int) -> Figures:
    naps = [
        Nap(number=number) if number % 100 else Nap(number=number, seconds=_HANGING_SECONDS)
        for number in range(jobs)
    ]
    with shop.yard() as yard:
        return {"io50": {SOME_HANG: drain(yard, naps)}}


def _enqueue(shop: Shop, jobs: int) -> Figures:
    contracts = [Noop(number=number) for number in range(jobs)]
    with shop.yard() as yard:
        rate = uvloop.run(producer.submit(yard.ground, contracts))
        there = yard.number("SELECT count(*) FROM goodsyard.job")
    if there != jobs:
        raise BenchmarkError(f"{there} of {jobs} jobs are in the queue")
    return {"enqueue": {SYSTEM: rate}}
