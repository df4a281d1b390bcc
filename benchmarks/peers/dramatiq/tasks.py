"""Dramatiq's side of the jobs: acknowledged once they are done, the chain is a pipeline."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks import marks

if os.environ["BENCH_SECTION"] == "chain":
    from benchmarks.chain import threads as steps

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))


@dramatiq.actor
def noop(number: int) -> None:
    """Leave a mark."""
    marks.leave(number)


@dramatiq.actor
def nap(number: int) -> None:
    """Leave a mark and wait for 50 ms."""
    marks.leave(number)
    time.sleep(0.05)


@dramatiq.actor
def reserve(order: int) -> None:
    """Run the order's first step."""
    steps.reserve(order)


@dramatiq.actor
def charge(order: int) -> None:
    """Run the order's second step."""
    steps.charge(order)


@dramatiq.actor
def notify(order: int) -> None:
    """Run the order's last step."""
    steps.notify(order)


def send(kind: str, number: int) -> None:
    """Send one job of a kind."""
    if kind == "order":
        dramatiq.pipeline(
            step.message_with_options(args=[number], pipe_ignore=True)
            for step in (reserve, charge, notify)
        ).run()
    else:
        {"noop": noop, "nap": nap}[kind].send(number)
