"""Three worker nodes and two relays on a run's ground, and backlogs made in one statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.types.json import Jsonb

from benchmarks import marks
from benchmarks.flow.jobs import Call, LongWork, Work
from benchmarks.yard import Shop, Yard

NODES = 3
"""Worker nodes, of one process each."""

RELAYS = 2

_GRACE = 35.0
_APP = "benchmarks.flow.jobs"

# A microsecond apart: rows of one statement have the same now(), and jobs are taken by their time.
_BACKLOG = """
INSERT INTO goodsyard.job
       (tenant, kind, priority, run_at, limit_key, slot_key, cost, max_attempts, payload)
SELECT %(tenant)s + (n - 1) %% %(tenants)s, %(kind)s,
       CASE WHEN %(mixed)s THEN n * 7919 %% 10 ELSE 5 END,
       now() - (%(rows)s - n) * interval '1 microsecond',
       CASE WHEN %(by_tenant)s THEN (%(tenant)s + (n - 1) %% %(tenants)s)::text ELSE '' END,
       '', NULL, 10, %(payload)s || jsonb_build_object('number', %(first)s + n - 1)
  FROM generate_series(1, %(rows)s) AS n
"""
_READY = "SELECT count(*) FROM goodsyard.worker"


class Cluster(Yard):
    """One run's Goodsyard, of several nodes that may be stopped, killed and started again."""

    def start_all(self) -> None:
        """Start the nodes and the relays, and wait until all nodes take work."""
        for number in range(RELAYS):
            self.start_relay_number(number)
        for number in range(NODES):
            self.start_node(number)
        self.wait("worker processes are up", lambda: self.number(_READY), NODES)

    def start_relay_number(self, number: int) -> None:
        """Start the relay of this number."""
        self._start(f"relay-{number}", "-m", _APP)

    def start_node(self, number: int) -> None:
        """Start the worker node of this number."""
        self._start(
            f"node-{number}",
            *("-m", "celery", "--app", _APP, "worker", "--hostname", f"node-{number}@%h"),
            *("--without-gossip", "--without-mingle", "--concurrency", "1"),
            grace=_GRACE,
        )

    def backlog(  # noqa: PLR0913 - what a backlog is
        self,
        kind: type[Work | LongWork | Call],
        rows: int,
        *,
        first: int = 0,
        tenant: int = 1,
        tenants: int = 1,
        mixed: bool = False,
    ) -> None:
        """Insert jobs that are due.

        Args:
            kind: theirs.
            rows: how many.
            first: the first one's number.
            tenant: whose they are, or the first of those whose they are in turn.
            tenants: how many those are.
            mixed: whether they have all priorities, in no order; else they have the usual one.
        """
        rate = kind.policy.limit
        self.execute(
            _BACKLOG,
            kind=kind.kind,
            rows=rows,
            first=first,
            tenant=tenant,
            tenants=tenants,
            mixed=mixed,
            by_tenant=rate is not None and rate.key is not None,
            payload=Jsonb({}),
        )

    def execute(self, statement: str, **values: object) -> None:
        """Carry out a statement, in a transaction of its own."""
        with psycopg.connect(self.ground.postgres, autocommit=True) as connection:
            connection.execute(statement.encode(), values)

    def marked(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the marks of the jobs from one number up to another, by their time."""
        found = [mark for mark in marks.read(self.ground.marks) if first <= mark[0] < end]
        return sorted(found, key=lambda mark: mark[1])


@contextmanager
def cluster(shop: Shop) -> Iterator[Cluster]:
    """Give one run a copy of the shop, in which nothing is up yet."""
    with shop.yard() as yard, Cluster(yard.ground, yard.api_key) as opened:
        yield opened
