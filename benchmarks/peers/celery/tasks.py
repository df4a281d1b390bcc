"""Celery's side of the jobs: no results kept; the chain's steps acknowledged once they are done."""

from __future__ import annotations

import os
import time

from celery import Celery, chain

from benchmarks import marks

CHAIN = os.environ["BENCH_SECTION"] == "chain"

if CHAIN:
    from benchmarks.chain import threads as steps

app = Celery("peers", broker=os.environ["BENCH_REDIS"])
app.conf.update(
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    # An early acknowledgement, the default, loses what a killed worker was at.
    task_acks_late=CHAIN,
    task_reject_on_worker_lost=CHAIN,
    # Many short jobs are taken at a time; of long ones only as many as keep the threads busy.
    worker_prefetch_multiplier=4 if os.environ["BENCH_SECTION"] in {"io50", "chain"} else 64,
)


@app.task
def noop(number: int) -> None:
    """Leave a mark."""
    marks.leave(number)


@app.task
def nap(number: int) -> None:
    """Leave a mark and wait for 50 ms."""
    marks.leave(number)
    time.sleep(0.05)


@app.task
def reserve(order: int) -> None:
    """Run the order's first step."""
    steps.reserve(order)


@app.task
def charge(order: int) -> None:
    """Run the order's second step."""
    steps.charge(order)


@app.task
def notify(order: int) -> None:
    """Run the order's last step."""
    steps.notify(order)


def send(kind: str, number: int) -> None:
    """Send one job of a kind."""
    if kind == "order":
        chain(reserve.si(number), charge.si(number), notify.si(number)).delay()
    else:
        {"noop": noop, "nap": nap}[kind].delay(number)
