"""Huey's side of the jobs: no results kept."""

from __future__ import annotations

import os
import time

from huey import RedisHuey

from benchmarks import marks

huey = RedisHuey("peers", url=os.environ["BENCH_REDIS"], results=False)


@huey.task()
def noop(number: int) -> None:
    """Leave a mark."""
    marks.leave(number)


@huey.task()
def nap(number: int) -> None:
    """Leave a mark and wait for 50 ms."""
    marks.leave(number)
    time.sleep(0.05)
