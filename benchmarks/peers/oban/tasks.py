"""Oban's side of the jobs: each step of the chain enqueues the next one."""

from __future__ import annotations

import asyncio
import os

from oban import Job, Oban, job

from benchmarks import marks

if os.environ["BENCH_SECTION"] == "chain":
    from benchmarks.chain import loop as steps


async def enqueue(new: Job) -> None:
    """Insert a job. Its own ``enqueue`` wraps the arguments of a plain function twice (0.7.0)."""
    await Oban.get_instance().enqueue(new)


@job()
async def noop(number: int) -> None:
    """Leave a mark."""
    marks.leave(number)


@job()
async def nap(number: int) -> None:
    """Leave a mark and wait for 50 ms."""
    marks.leave(number)
    await asyncio.sleep(0.05)


@job()
async def order(number: int) -> None:
    """Run the order's first step."""
    await steps.reserve(number)
    await enqueue(charge.new(number))


@job()
async def charge(number: int) -> None:
    """Run the order's second step."""
    await steps.charge(number)
    await enqueue(notify.new(number))


@job()
async def notify(number: int) -> None:
    """Run the order's last step."""
    await steps.notify(number)
