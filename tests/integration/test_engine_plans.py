"""No statement of a chunk's way reads the whole table, whatever the planner believed before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from goodsyard import claims, dispatch, interventions, jobs, recall, settlement, sweeper
from goodsyard.contracts import Backoff
from goodsyard.database import open_engine, session_factory
from goodsyard.interventions import Actor
from goodsyard.outcomes import Done, Outcome, Retry
from goodsyard.settlement import Ended
from goodsyard.submit import Staged, stage
from tests.conftest import Servers, fresh_database
from tests.yard import TENANT, Ask, Note, Yard, open_yard

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKLOG, BATCH = 20_000, 4_000
ROUNDS_UNTIL_PLANS_ARE_KEPT = 12
"""Psycopg prepares a statement at its fifth use, and Postgres weighs a kept plan at the sixth of
those."""

_FILL = """
    INSERT INTO goodsyard.job (tenant, kind, state, run_at, deadline, claimed_by, subject, fence,
                               payload, max_attempts, unique_key)
    SELECT 1, (ARRAY['test.note', 'test.ask'])[1 + n % 2],
           (CASE WHEN n % 100 < 94 THEN 'waiting' WHEN n % 100 < 96 THEN 'dead'
                 WHEN n % 100 < 98 THEN 'dispatched' ELSE 'running' END)::goodsyard.job_state,
           now() - n * interval '1 ms',
           CASE WHEN n % 100 >= 96 THEN now() + (n % 7 - 3) * interval '1 minute' END,
           gen_random_uuid(), gen_random_uuid(), 1, '{}', 3, 'key ' || n
      FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
"""

_SEQUENTIAL_SCANS = text("SELECT pg_stat_get_xact_numscans('goodsyard.job'::regclass)")

Statement = Callable[[AsyncSession], Awaitable[object]]


def ended(job: UUID, outcome: Outcome) -> Ended:
    return Ended(job, TENANT, 0, None, None, outcome)


async def run_a_chunk(tx: AsyncSession, done: Outcome) -> None:
    batch = [job.delivery for job in await dispatch.dispatch(tx, Note.kind, 100)]
    await dispatch.take_back(tx, batch[:10])
    held = await claims.lock_dispatched(tx, Note.kind, batch)
    outcomes = [ended(row.id, done if n % 2 else Retry("no")) for n, row in enumerate(held)]
    await settlement.settle(tx, outcomes, backoff=Backoff(), worker=uuid4())


async def run_calls(tx: AsyncSession) -> None:
    worker = uuid4()
    batch = [job.delivery for job in await dispatch.dispatch(tx, Ask.kind, 100)]
    await claims.lease(tx, Ask.kind, batch, worker=worker, seconds=45)
    await claims.lock_held(tx, batch, worker=worker)
    ours = await claims.lock_running(tx, batch)
    outcomes = [ended(job, Done()) for job in sorted(ours)]
    await settlement.settle(tx, outcomes, backoff=Backoff(), worker=worker)


ACTOR = Actor(TENANT, "ann")
STATEMENTS: dict[str, Statement] = {
    "due_kinds": lambda tx: dispatch.due_kinds(tx, ["test.note", "test.ask", "test.idle"]),
    "a database chunk": lambda tx: run_a_chunk(tx, Done()),
    "a database chunk that stages": lambda tx: run_a_chunk(tx, Done(next=[Note()])),
    "an external chunk": run_calls,
    "return_overdue": lambda tx: sweeper.return_overdue(tx, [Note, Ask], {"orders": 0.0}),
    "reset_dispatched": sweeper.reset_dispatched,
    "stage_unique": lambda tx: stage(tx, [Staged(TENANT, Note(), unique_key="key 1")]),
    "cancel_unstarted": lambda tx: recall.cancel_unstarted(tx, [uuid4()], Note.kind),
    "overdue": lambda tx: recall.overdue(tx, Note.kind, 3_600, member="line", most=500),
    "undecided": lambda tx: recall.undecided(tx, uuid4(), Note.kind),
    "cancel_job": lambda tx: interventions.cancel_job(tx, ACTOR, uuid4(), kinds=[Note.kind]),
    "retry_job": lambda tx: interventions.retry_job(tx, ACTOR, uuid4()),
    "find_dead": lambda tx: interventions.find_dead(tx, TENANT),
    "read_job": lambda tx: jobs.read_job(tx, TENANT, uuid4()),
    "first_dead": lambda tx: jobs.first_dead(tx, TENANT, [uuid4()]),
}


async def empty(engine: AsyncEngine) -> None:
    """Take every page from the table: the planner goes by how many there are."""
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("DELETE FROM goodsyard.job"))
        await connection.execute(text("VACUUM goodsyard.job"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full_yard(servers: Servers, postgres_url: str) -> AsyncIterator[Yard]:
    """A connection that knows every statement from an empty queue, which is full by now."""
    async with AsyncExitStack() as stack:
        url = stack.enter_context(fresh_database(servers))
        engine = open_engine(url, pool_size=1, application_name="tests")
        stack.push_async_callback(engine.dispose)
        sessions = session_factory(engine)
        yard = await stack.enter_async_context(open_yard(sessions, servers.valkey.url))
        await yard.sql("ALTER TABLE goodsyard.job SET (autovacuum_enabled = false)")
        for _ in range(ROUNDS_UNTIL_PLANS_ARE_KEPT):
            await empty(engine)
            await yard.stage(*(contract for _ in range(30) for contract in (Note(), Ask())))
            for statement in STATEMENTS.values():
                async with yard.sessions.begin() as tx:
                    await statement(tx)
        for first in range(0, BACKLOG, BATCH):
            await yard.sql(_FILL, first=first + 1, last=first + BATCH)
        yield yard


@pytest.mark.parametrize("name", STATEMENTS)
@pytest.mark.parametrize("planner", ["as it was while the queue was empty", "told of the backlog"])
async def test_a_full_queue_is_never_read_as_a_whole(
    full_yard: Yard, name: str, planner: str
) -> None:
    async with full_yard.sessions.begin() as tx:  # a rollback would make psycopg forget its plans
        if planner == "told of the backlog":
            await tx.execute(text("ANALYZE goodsyard.job"))
        before = await tx.scalar(_SEQUENTIAL_SCANS)
        await STATEMENTS[name](tx)
        assert await tx.scalar(_SEQUENTIAL_SCANS) == before
