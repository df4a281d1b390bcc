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
from goodsyard.contracts import Backoff, Contract
from goodsyard.database import Sessions, open_engine, session_factory
from goodsyard.interventions import Actor
from goodsyard.outcomes import Cancelled, Done, Outcome, Retry
from goodsyard.settlement import Ended
from goodsyard.submit import Staged, stage
from tests.conftest import Servers, fresh_database
from tests.yard import TENANT, Ask, Note, open_yard

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
_ENTRIES_READ = text("""
    SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid))::int
      FROM pg_index WHERE indrelid = 'goodsyard.job'::regclass
""")

OF_WORKERS = {
    "a database chunk",
    "a database chunk that stages",
    "an external chunk",
    "stage_unique",
    "cancel_unstarted",
    "undecided",
    "called_off",
}
OF_RELAYS = {"due_kinds", "a dispatch", "return_overdue", "reset_dispatched"}

Statement = Callable[[AsyncSession], Awaitable[object]]


def ended(job: UUID, outcome: Outcome) -> Ended:
    return Ended(job, TENANT, 0, None, None, outcome)


async def run_a_chunk(tx: AsyncSession, done: Outcome) -> None:
    batch = [job.delivery for job in (await dispatch.dispatch(tx, Note.kind, 100)).jobs]
    await dispatch.take_back(tx, batch[:10])
    held = await claims.lock_dispatched(tx, Note.kind, batch)
    outcomes = [ended(row.id, done if n % 2 else Retry("no")) for n, row in enumerate(held)]
    await settlement.settle(tx, outcomes, backoff=Backoff(), worker=uuid4())


async def dispatch_some(tx: AsyncSession) -> None:
    await dispatch.dispatch(tx, Note.kind, 10)


async def run_calls(tx: AsyncSession) -> None:
    worker = uuid4()
    batch = [job.delivery for job in (await dispatch.dispatch(tx, Ask.kind, 100)).jobs]
    await claims.lease(tx, Ask.kind, batch, worker=worker, seconds=45)
    await claims.lock_held(tx, batch, worker=worker)
    ours = await claims.lock_running(tx, batch)
    outcomes = [
        ended(job, Cancelled("no") if number % 2 else Done())
        for number, job in enumerate(sorted(ours))
    ]
    await settlement.settle(tx, outcomes, backoff=Backoff(), worker=worker)


ACTOR = Actor(TENANT, "ann")
KINDS: dict[str, type[Contract]] = {Note.kind: Note, Ask.kind: Ask}
STATEMENTS: dict[str, Statement] = {
    "due_kinds": lambda tx: dispatch.due_kinds(tx, ["test.note", "test.ask", "test.idle"]),
    "a dispatch": dispatch_some,
    "a database chunk": lambda tx: run_a_chunk(tx, Done()),
    "a database chunk that stages": lambda tx: run_a_chunk(tx, Done(next=[Note()])),
    "an external chunk": run_calls,
    "return_overdue": lambda tx: sweeper.return_overdue(tx, [Note, Ask], {"orders": 0.0}),
    "reset_dispatched": sweeper.reset_dispatched,
    "stage_unique": lambda tx: stage(tx, [Staged(TENANT, Note(), unique_key="key 1")]),
    "cancel_unstarted": lambda tx: recall.cancel_unstarted(tx, [uuid4()], Note.kind),
    "overdue": lambda tx: recall.overdue(tx, Note.kind, 3_600, member="line", most=500),
    "called_off": lambda tx: recall.called_off(tx, [uuid4() for _ in range(200)]),
    "undecided": lambda tx: recall.undecided(tx, uuid4(), Note.kind),
    "cancel_job": lambda tx: interventions.cancel_job(tx, ACTOR, uuid4(), contracts=KINDS),
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


OF_PRODUCERS = STATEMENTS.keys() - OF_WORKERS - OF_RELAYS | {"stage_unique", "cancel_unstarted"}
RUN = [("made anew", name) for name in sorted(OF_PRODUCERS)] + [
    ("kept", name) for name in sorted(OF_WORKERS | OF_RELAYS)
]
"""What happens to plans on a connection, and each statement that runs on such."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def acquainted(servers: Servers, postgres_url: str) -> AsyncIterator[dict[str, Sessions]]:
    """Connections that know their statements from an empty queue, which is full by now."""
    async with AsyncExitStack() as stack:
        url = stack.enter_context(fresh_database(servers))
        engines = {
            plans: open_engine(
                url, pool_size=1, application_name="tests", keep_plans=plans == "kept"
            )
            for plans in ("made anew", "kept")
        }
        for engine in engines.values():
            stack.push_async_callback(engine.dispose)
        sessions = {plans: session_factory(engine) for plans, engine in engines.items()}
        yard = await stack.enter_async_context(open_yard(sessions["made anew"], servers.valkey.url))
        await yard.sql("ALTER TABLE goodsyard.job SET (autovacuum_enabled = false)")
        for _ in range(ROUNDS_UNTIL_PLANS_ARE_KEPT):
            await empty(engines["made anew"])
            await yard.stage(*(contract for _ in range(60) for contract in (Note(), Ask())))
            for plans, name in RUN:
                async with sessions[plans].begin() as tx:
                    await STATEMENTS[name](tx)
        for first in range(0, BACKLOG, BATCH):
            await yard.sql(_FILL, first=first + 1, last=first + BATCH)
        yield sessions


@pytest.mark.parametrize(("plans", "name"), RUN)
@pytest.mark.parametrize("planner", ["as it was while the queue was empty", "told of the backlog"])
async def test_a_full_queue_is_never_read_as_a_whole(
    acquainted: dict[str, Sessions], plans: str, name: str, planner: str
) -> None:
    async with acquainted[plans].begin() as tx:  # a rollback would make psycopg forget its plans
        if planner == "told of the backlog":
            await tx.execute(text("ANALYZE goodsyard.job"))
        before = await tx.scalar(_SEQUENTIAL_SCANS)
        await STATEMENTS[name](tx)
        assert await tx.scalar(_SEQUENTIAL_SCANS) == before


async def entries_read(tx: AsyncSession) -> int:
    return int(await tx.scalar(_ENTRIES_READ) or 0)


async def test_a_dispatch_reads_no_more_of_a_full_queue_than_it_takes(
    acquainted: dict[str, Sessions],
) -> None:
    async with acquainted["kept"].begin() as tx:
        before = await entries_read(tx)
        await dispatch_some(tx)
        assert 10 <= await entries_read(tx) - before < 100


async def test_a_claim_reads_no_more_of_what_is_dispatched_than_it_names(
    acquainted: dict[str, Sessions],
) -> None:
    async with acquainted["made anew"].begin() as tx:
        await sweeper.reset_dispatched(tx)
        await tx.execute(text("ANALYZE goodsyard.job"))  # so to the planner nothing is dispatched
    async with acquainted["kept"].begin() as tx:
        batch = [job.delivery for job in (await dispatch.dispatch(tx, Note.kind, 1_000)).jobs]
        before = await entries_read(tx)
        assert len(await claims.lock_dispatched(tx, Note.kind, batch[:10])) == 10
        assert await entries_read(tx) - before < 100
