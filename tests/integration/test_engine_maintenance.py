"""Housekeeping that goes on whatever it finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from goodsyard import maintenance
from goodsyard.database import Sessions
from goodsyard.maintenance import DAYS_AHEAD
from tests.flows import run_due, start, step
from tests.yard import NOTES, Note, Yard, open_yard

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """One of its own, since these tests drop tables."""
    return own_database_url


@pytest.fixture
async def yard(sessions: Sessions, redis_url: str) -> AsyncIterator[Yard]:
    async with open_yard(sessions, redis_url) as opened:
        yield opened


def id_of(moment: datetime) -> UUID:
    """Return an id that was made at that moment, by some clock (RFC 9562, 5.7)."""
    milliseconds = int(moment.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | 1)


async def make_partitions(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        await maintenance.make_partitions(tx)


async def partition_of(yard: Yard, job: UUID) -> str:
    ((name,),) = await yard.sql(
        "SELECT relname FROM goodsyard.job_done d JOIN pg_class p ON p.oid = d.tableoid "
        " WHERE d.id = :id",
        id=job,
    )
    return str(name)


async def finish(yard: Yard, job: UUID) -> None:
    """Carry out a job that came in under this id."""
    await yard.stage(Note())
    await yard.sql("UPDATE goodsyard.job SET id = :id", id=job)
    await yard.run(NOTES, await yard.dispatch())


def name_of(day: datetime) -> str:
    return f"job_done_{day:%Y%m%d}"


@pytest.mark.parametrize("days", [0, 1, DAYS_AHEAD])
async def test_a_finished_job_is_kept_with_those_of_its_day(yard: Yard, days: int) -> None:
    await make_partitions(yard)
    day = TODAY + timedelta(days=days)
    for moment in (day, day + timedelta(days=1, milliseconds=-1)):
        await finish(yard, id_of(moment))
        assert await partition_of(yard, id_of(moment)) == name_of(day)


async def test_a_job_of_a_wrong_clock_is_kept_and_stops_no_housekeeping(yard: Yard) -> None:
    """Its day comes; by then its row lies where rows without a partition go."""
    await yard.sql(f"DROP TABLE goodsyard.{name_of(TODAY + timedelta(days=2))}")
    early = id_of(TODAY + timedelta(days=2))
    await finish(yard, early)
    assert await partition_of(yard, early) == "job_done_default"

    await yard.sql(f"DROP TABLE goodsyard.{name_of(TODAY + timedelta(days=3))}")
    await make_partitions(yard)
    assert (await yard.job(early)).id == early
    await finish(yard, id_of(TODAY + timedelta(days=3)))
    assert await partition_of(yard, id_of(TODAY + timedelta(days=3))) == name_of(
        TODAY + timedelta(days=3)
    )


async def test_partitions_that_exist_are_left_alone_however_many_make_them(yard: Yard) -> None:
    await yard.sql(f"DROP TABLE goodsyard.{name_of(TODAY + timedelta(days=5))}")
    await asyncio.gather(*(make_partitions(yard) for _ in range(4)))
    await finish(yard, id_of(TODAY + timedelta(days=5)))
    assert await partition_of(yard, id_of(TODAY + timedelta(days=5))) == name_of(
        TODAY + timedelta(days=5)
    )


async def test_a_workflow_is_forgotten_with_the_last_of_its_jobs(yard: Yard) -> None:
    flows = [await start(yard, step("a", undo="z"), step("b", "a")) for _ in range(3)]
    await yard.sql("UPDATE goodsyard.workflow SET created_at = now() - interval '1 month'")
    kept, waiting, dropped = (list(flow.jobs.values()) for flow in flows)
    await yard.sql(
        "UPDATE goodsyard.job SET run_at = now() + interval '1 h' WHERE id = ANY(:ids)", ids=waiting
    )
    await run_due(yard)
    await yard.sql("DELETE FROM goodsyard.job_done WHERE id = ANY(:ids)", ids=[*dropped, kept[0]])
    async with yard.sessions.begin() as tx:
        await maintenance.forget_workflows(tx)
    left = {flow.id for flow in flows[:2]}
    for table in ("workflow", "step", "dependency"):
        column = "id" if table == "workflow" else "workflow"
        rows = await yard.sql(f"SELECT DISTINCT {column} FROM goodsyard.{table}")  # noqa: S608 - ours
        assert {row[0] for row in rows} == left, table
