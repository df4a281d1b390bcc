"""A tick happens once, by however many relays, and whatever becomes of one in the middle of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import schedules
from goodsyard.contracts import Contract
from goodsyard.job import first_id_at
from goodsyard.schedules import Misfire, Schedule, Timetable
from tasks.contracts import ReconcilePayments
from tasks.schedules import ALL
from tests.yard import NOTES, TENANT, Note, Yard

NAME = "test.hourly"


async def note(_tx: AsyncSession, tick: datetime) -> Iterable[tuple[int, Contract]]:
    return [(TENANT, Note(line=f"{tick:%H:%M}"))]


def hourly(misfire: Misfire = Misfire.LATEST, *, overlap: bool = True) -> Schedule:
    return Schedule(NAME, "0 * * * *", note, misfire=misfire, overlap=overlap)


async def decided(yard: Yard, hours: float) -> datetime:
    """Have the schedule decided up to so many hours ago; return the hour that has begun last."""
    await yard.sql("DELETE FROM goodsyard.schedule_tick")
    await yard.sql(
        "INSERT INTO goodsyard.schedule (name, last_tick)"
        " VALUES (:name, now() - make_interval(secs => :s)) ON CONFLICT (name)"
        " DO UPDATE SET last_tick = excluded.last_tick",
        name=NAME,
        s=hours * 3_600,
    )
    ((hour,),) = await yard.sql("SELECT date_trunc('hour', now())")
    begun: datetime = hour
    return begun


async def look(yard: Yard, *timetables: Timetable) -> list[set[str]]:
    ((now,),) = await yard.sql("SELECT now()")
    return await asyncio.gather(*(one.carry_out(yard.sessions, now) for one in timetables))


async def ticks(yard: Yard) -> list[tuple[datetime, int]]:
    rows = await yard.sql("SELECT tick, jobs FROM goodsyard.schedule_tick ORDER BY tick")
    return [(row.tick, row.jobs) for row in rows]


async def staged(yard: Yard) -> int:
    ((count,),) = await yard.sql("SELECT count(*) FROM goodsyard.job")
    return int(count)


async def test_a_schedule_that_is_new_begins_now_and_makes_up_for_nothing(yard: Yard) -> None:
    assert await look(yard, Timetable([hourly(Misfire.ALL)])) == [set()]
    assert (await staged(yard), await ticks(yard)) == (0, [])


async def test_of_many_relays_one_carries_a_tick_out(yard: Yard) -> None:
    hour = await decided(yard, 1)
    woken = await look(yard, *(Timetable([hourly()]) for _ in range(8)))
    assert await ticks(yard) == [(hour, 1)]
    assert await staged(yard) == 1
    assert max(woken, key=len) == {Note.kind}
    assert sum(map(len, woken)) == 1


async def test_the_same_relay_does_not_carry_it_out_again(yard: Yard) -> None:
    await decided(yard, 1)
    timetable = Timetable([hourly()])
    for _ in range(3):
        await look(yard, timetable)
    assert await staged(yard) == 1


@pytest.mark.parametrize(("misfire", "jobs"), [(Misfire.LATEST, 1), (Misfire.ALL, 5)])
async def test_what_was_missed_while_no_relay_ran_goes_by_the_policy(
    yard: Yard, misfire: Misfire, jobs: int
) -> None:
    hour = await decided(yard, 5)
    await look(yard, Timetable([hourly(misfire)]))
    expected = [hour - timedelta(hours=back) for back in reversed(range(jobs))]
    assert [tick for tick, _ in await ticks(yard)] == expected
    assert await staged(yard) == jobs


async def test_a_relay_that_dies_in_the_middle_leaves_the_tick_to_the_next(yard: Yard) -> None:
    async def die(tx: AsyncSession, tick: datetime) -> Iterable[tuple[int, Contract]]:
        await tx.execute(text("SELECT 1 / 0"))
        return await note(tx, tick)

    hour = await decided(yard, 1)
    await look(yard, Timetable([Schedule(NAME, "0 * * * *", die)]))
    assert (await staged(yard), await ticks(yard)) == (0, [])
    await look(yard, Timetable([hourly()]))
    assert await ticks(yard) == [(hour, 1)]


async def test_one_schedules_error_keeps_no_other_from_its_tick(yard: Yard) -> None:
    async def fail(_tx: AsyncSession, _tick: datetime) -> Iterable[tuple[int, Contract]]:
        raise RuntimeError("no")

    await decided(yard, 1)
    await yard.sql("INSERT INTO goodsyard.schedule SELECT 'a', last_tick FROM goodsyard.schedule")
    await look(yard, Timetable([Schedule("a", "0 * * * *", fail), hourly()]))
    assert await staged(yard) == 1


async def test_a_tick_before_the_last_job_is_over_stages_nothing_and_says_so(yard: Yard) -> None:
    hour = await decided(yard, 2)
    timetable = Timetable([hourly(Misfire.ALL, overlap=False)])
    await look(yard, timetable)
    assert await ticks(yard) == [(hour - timedelta(hours=1), 1), (hour, 0)]
    await yard.run(NOTES, await yard.dispatch())
    await decided(yard, 1)
    await look(yard, Timetable([hourly(overlap=False)]))
    assert await ticks(yard) == [(hour, 1)]


async def test_a_paused_schedule_ticks_not_and_then_by_its_policy(yard: Yard) -> None:
    await decided(yard, 3)
    timetable = Timetable([hourly(Misfire.ALL)])
    async with yard.sessions.begin() as tx:
        await schedules.pause_schedule(tx, NAME, paused=True)
    await look(yard, timetable)
    assert await staged(yard) == 0
    async with yard.sessions.begin() as tx:
        await schedules.pause_schedule(tx, NAME, paused=False)
    await look(yard, timetable)
    assert await staged(yard) == 3


async def test_old_ticks_are_forgotten(yard: Yard) -> None:
    await decided(yard, 1)
    await look(yard, Timetable([hourly()]))
    await yard.sql(
        "INSERT INTO goodsyard.schedule_tick (schedule, tick, jobs)"
        " VALUES (:name, now() - interval '91 days', 1)",
        name=NAME,
    )
    async with yard.sessions.begin() as tx:
        await schedules.forget_ticks(tx)
    assert len(await ticks(yard)) == 1


async def test_a_day_is_reconciled_for_the_tenants_that_had_payments_in_it(yard: Yard) -> None:
    (daily,) = (one for one in ALL if one.name == "payments.reconcile-daily")
    tick = datetime(2026, 6, 2, 3, tzinfo=UTC)
    day = [datetime(2026, 6, day, tzinfo=UTC) for day in (1, 2)]
    await yard.sql(
        "INSERT INTO commerce.tenant (name) SELECT 't' || n FROM generate_series(1, 4) n"
    )
    ((first,),) = await yard.sql("SELECT min(id) FROM commerce.tenant")
    await yard.sql("INSERT INTO commerce.users (tenant) SELECT id FROM commerce.tenant")
    made = [day[0] - timedelta(seconds=1), day[0], day[1] - timedelta(seconds=1), day[1]]
    for tenant, moment in enumerate(made, start=first):
        await yard.sql(
            "INSERT INTO commerce.payment (id, tenant, user_id, amount, currency, payment_method)"
            " SELECT :id, tenant, id, 1, 'EUR', 'pm' FROM commerce.users WHERE tenant = :tenant",
            id=first_id_at(moment),
            tenant=tenant,
        )
    async with yard.sessions.begin() as tx:
        due = list(await daily.due(tx, tick))
    assert [tenant for tenant, _ in due] == [first + 1, first + 2]
    assert {job for _, job in due} == {ReconcilePayments(since=day[0], until=day[1])}


async def test_jobs_of_next_year_cost_a_relay_nothing(yard: Yard) -> None:
    """However many there are, a look reads no further than to the first that isn't due."""
    await yard.sql("""
        INSERT INTO goodsyard.job (tenant, kind, priority, run_at, max_attempts, payload)
        SELECT 1, 'test.note', n % 10, now() + interval '1 year' + n * interval '1 second', 3, '{}'
          FROM generate_series(1, 20000) AS n""")
    await yard.sql("ANALYZE goodsyard.job")
    (job,) = await yard.stage(Note())
    reads = """SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'job_ready'"""
    async with yard.sessions.begin() as tx:
        await tx.execute(text("SELECT pg_stat_force_next_flush()"))
    before = (await yard.sql(reads))[0][0]
    assert [one for one, _ in await yard.dispatch()] == [job]
    async with yard.sessions.begin() as tx:
        await tx.execute(text("SELECT pg_stat_force_next_flush()"))
    assert (await yard.sql(reads))[0][0] - before < 100
