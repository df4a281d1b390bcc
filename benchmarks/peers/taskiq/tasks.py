"""Taskiq's side of the jobs: no results kept, each step of the chain sends the next one."""

from __future__ import annotations

import asyncio
import os

from taskiq_redis import ListQueueBroker

from benchmarks import marks

if os.environ["BENCH_SECTION"] == "chain":
    from benchmarks.chain import loop as steps

broker = ListQueueBroker(os.environ["BENCH_REDIS"])


@broker.task
async def noop(number: int) -> None:
    """Leave a mark."""
    marks.leave(number)


@broker.task
async def nap(number: int) -> None:
    """Leave a mark and wait for 50 ms."""
    marks.leave(number)
    await asyncio.sleep(0.05)


@broker.task
async def order(number: int) -> None:
    """Run the order's first step."""
    await steps.reserve(number)
    await charge.kiq(number)


@broker.task
async def charge(number: int) -> None:
    """Run the order's second step."""
    await steps.charge(number)
    await notify.kiq(number)


@broker.task
async def notify(number: int) -> None:
    """Run the order's last step."""
    await steps.notify(number)
