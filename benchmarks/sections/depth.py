"""What a full house costs: no-op jobs a second beside millions of other rows, over an empty one's.

Waiting are as many jobs of the same kind that are due tomorrow as of another kind whose queue is
paused, as after a day without a mail server; finished are ten times as many as waiting.
"""

from __future__ import annotations

from functools import cached_property, partial

import psycopg

from benchmarks.arms import Arm, Figures, Say
from benchmarks.jobs import Noop
from benchmarks.sections.queue import SYSTEM, drain
from benchmarks.yard import TENANT, Shop
from tasks.contracts import SendEmail

WAITING = 1_000_000
FINISHED = 10_000_000

_JOBS = 100_000
_ROWS = 250_000  # a statement

_DEEP = "deep"
_QUEUE = SendEmail.policy.queue

_LATER = """
INSERT INTO goodsyard.job (tenant, kind, run_at, max_attempts, payload)
SELECT %(tenant)s, %(kind)s, now() + interval '1 day' + n * interval '1 ms', 10,
       jsonb_build_object('number', n)
  FROM generate_series(1, %(rows)s) AS n
"""
_PAUSED = """
INSERT INTO goodsyard.job (tenant, kind, max_attempts, subject, payload)
SELECT %(tenant)s, %(kind)s, 10, uuidv7(),
       jsonb_build_object('to', 'user' || n || '@example.com', 'template', 'receipt')
  FROM generate_series(1, %(rows)s) AS n
"""
_DONE = """
INSERT INTO goodsyard.job_done (tenant, kind, state, max_attempts, fence, payload,
                                started_at, finished_at)
SELECT %(tenant)s, %(kind)s, 'succeeded', 10, 1, jsonb_build_object('number', n), now(), now()
  FROM generate_series(1, %(rows)s) AS n
"""


def arms(shop: Shop, say: Say, scale: float) -> list[Arm]:
    """Return the arm of ``depth``; the rows are made at its first run, and stay for the others."""
    house = _House(shop, say, scale)
    return [Arm("depth", SYSTEM, _JOBS, partial(_run, shop, house), warms_up=False)]


def _run(shop: Shop, house: _House, jobs: int) -> Figures:
    full = house.database
    with shop.yard() as yard:
        empty_rate = drain(yard, [Noop(number=number) for number in range(jobs)])
    with shop.yard_on(full) as yard:
        return {
            "depth": {
                SYSTEM: drain(yard, [Noop(number=number) for number in range(jobs)]) / empty_rate
            }
        }


class _House:
    """The database with all those rows."""

    def __init__(self, shop: Shop, say: Say, scale: float) -> None:
        self._shop = shop
        self._say = say
        self._waiting, self._finished = round(WAITING * scale), round(FINISHED * scale)

    @cached_property
    def database(self) -> str:
        """Its name; made at the first look."""
        with psycopg.connect(self._shop.copy(_DEEP), autocommit=True) as connection:
            # Where a person's pause ends up, too.
            connection.execute("UPDATE goodsyard.queue SET paused = true WHERE name = %s", [_QUEUE])
            self._fill(connection, _LATER, Noop.kind, self._waiting // 2)
            self._fill(connection, _PAUSED, SendEmail.kind, self._waiting // 2)
            self._fill(connection, _DONE, Noop.kind, self._finished)
            connection.execute("VACUUM ANALYZE goodsyard.job, goodsyard.job_done")
        return _DEEP

    def _fill(self, connection: psycopg.Connection, statement: str, kind: str, rows: int) -> None:
        for made in range(0, rows, _ROWS):
            self._say(f"depth: {made:,} of {rows:,} rows {kind} are made")
            some = {"tenant": TENANT, "kind": kind, "rows": min(_ROWS, rows - made)}
            connection.execute(statement.encode(), some)
