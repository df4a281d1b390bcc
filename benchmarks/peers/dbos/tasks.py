"""DBOS's side of the jobs: each is a workflow of the queue, the chain one of three steps.

``python -m benchmarks.peers.dbos.tasks NAME`` is a worker.
"""

from __future__ import annotations

import asyncio
import os
import sys
from threading import Event

from dbos import DBOS, DBOSConfig

from benchmarks import marks

if os.environ["BENCH_SECTION"] == "chain":
    from benchmarks.chain import loop as steps

QUEUE = "jobs"


@DBOS.workflow()
async def noop(number: int) -> None:
    """Leave a mark."""
    marks.leave(number)


@DBOS.workflow()
async def nap(number: int) -> None:
    """Leave a mark and wait for 50 ms."""
    marks.leave(number)
    await asyncio.sleep(0.05)


@DBOS.workflow()
async def order(number: int) -> None:
    """Run the order's three steps."""
    await reserve(number)
    await charge(number)
    await notify(number)


@DBOS.step()
async def reserve(number: int) -> None:
    """Run the order's first step."""
    await steps.reserve(number)


@DBOS.step()
async def charge(number: int) -> None:
    """Run the order's second step."""
    await steps.charge(number)


@DBOS.step()
async def notify(number: int) -> None:
    """Run the order's last step."""
    await steps.notify(number)


def launch(name: str, queues: list[str]) -> None:
    """Connect, make the tables where they are not there yet, and work off the queues."""
    # The same version whoever started: a workflow runs on the version that enqueued it.
    config = DBOSConfig(
        name="peers",
        system_database_url=os.environ["BENCH_POSTGRES"],
        application_version="1",
        executor_id=name,
        log_level="WARNING",
    )
    DBOS(config=config)
    DBOS.listen_queues(queues)
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=100, polling_interval_sec=0.05)


if __name__ == "__main__":
    launch(sys.argv[1], [QUEUE])
    Event().wait()
