"""Procrastinate's side of the jobs: each step of the chain defers the next one."""

from __future__ import annotations

import asyncio
import os

from procrastinate import App, PsycopgConnector

from benchmarks import marks

if os.environ["BENCH_SECTION"] == "chain":
    from benchmarks.chain import loop as steps

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_POSTGRES"], max_size=10))


@app.task
async def noop(number: int) -> None:
    """Leave a mark."""
    marks.leave(number)


@app.task
async def nap(number: int) -> None:
    """Leave a mark and wait for 50 ms."""
    marks.leave(number)
    await asyncio.sleep(0.05)


@app.task
async def order(number: int) -> None:
    """Run the order's first step."""
    await steps.reserve(number)
    await charge.defer_async(number=number)


@app.task
async def charge(number: int) -> None:
    """Run the order's second step."""
    await steps.charge(number)
    await notify.defer_async(number=number)


@app.task
async def notify(number: int) -> None:
    """Run the order's last step."""
    await steps.notify(number)
