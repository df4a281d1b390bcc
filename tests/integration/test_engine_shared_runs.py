"""However many ask for the same at once, one run answers them all."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import ClassVar
from uuid import UUID

import pytest
from sqlalchemy import text

from goodsyard import shared_runs
from goodsyard.contracts import Cache, Policy
from goodsyard.flow import DatabaseHandler
from goodsyard.job import JobState
from goodsyard.producer import Producer
from goodsyard.shared_runs import Found, Shared, Unique
from goodsyard.submit import Staged
from tests.yard import NOTES, TENANT, Note, Yard, note_all

DONE = Unique({JobState.SUCCEEDED}, period=60)


class Looked(Note):
    """Is looked up once for all who ask."""

    kind: ClassVar[str] = "test.looked_up"
    policy: ClassVar[Policy] = Policy(
        queue="orders", cache=Cache(ttl=60, negative_ttl=5, stale_while_revalidate=30)
    )


class ByLength(Note):
    """Is the same for lines of a length."""

    kind: ClassVar[str] = "test.by_length"
    policy: ClassVar[Policy] = Policy(
        queue="orders", cache=Cache(ttl=60, key=lambda job: len(job.payload.line))
    )


LOOKED = DatabaseHandler(Looked, note_all)


async def ask(yard: Yard, line: str = "x", tenant: int = TENANT) -> Shared:
    async with yard.sessions.begin() as tx:
        return await shared_runs.stage_cached(tx, Staged(tenant, Looked(line=line)))


async def once(yard: Yard, key: str = "one", unique: Unique = DONE) -> Shared:
    staged = Staged(TENANT, Note(line="x"), unique_key=key)
    async with yard.sessions.begin() as tx:
        return await shared_runs.stage_once(tx, staged, unique)


async def carry_out(yard: Yard) -> None:
    await yard.run(LOOKED, await yard.dispatch(Looked.kind))


async def later(yard: Yard, seconds: float) -> None:
    """Let what has ended have ended so much earlier."""
    for heap in ("job", "job_done"):
        await yard.sql(
            f"UPDATE goodsyard.{heap} SET finished_at = finished_at - make_interval(secs => :s),"  # noqa: S608 - one of two names
            " created_at = created_at - make_interval(secs => :s)",
            s=seconds,
        )


async def jobs(yard: Yard) -> int:
    ((count,),) = await yard.sql(
        "SELECT (SELECT count(*) FROM goodsyard.job) + (SELECT count(*) FROM goodsyard.job_done)"
    )
    return int(count)


async def test_fifty_at_once_start_one_run_and_get_its_result(yard: Yard) -> None:
    asked = await asyncio.gather(*(ask(yard) for _ in range(50)))
    (job,) = {one.job for one in asked}
    assert Counter(one.found for one in asked) == {Found.MISS: 1, Found.UNDER_WAY: 49}
    await carry_out(yard)
    assert await yard.notes() == ["x"]
    assert (await yard.job(job)).result == {"noted": "x"}


async def test_later_ones_get_the_stored_result_until_it_expires(yard: Yard) -> None:
    first = await ask(yard)
    await carry_out(yard)
    again = await ask(yard)
    assert (again.job, again.found) == (first.job, Found.HIT)
    assert again.fresh_for is not None
    assert 30 < again.fresh_for <= 60
    await later(yard, 100)
    assert (await ask(yard)).found is Found.MISS
    assert await jobs(yard) == 2


async def test_a_stale_result_is_given_out_while_one_run_makes_the_next(yard: Yard) -> None:
    first = await ask(yard)
    await carry_out(yard)
    await later(yard, 70)
    asked = await asyncio.gather(*(ask(yard) for _ in range(20)))
    assert {(one.job, one.found) for one in asked} == {(first.job, Found.STALE)}
    assert await jobs(yard) == 2
    await carry_out(yard)
    fresh = await ask(yard)
    assert fresh.found is Found.HIT
    assert fresh.job != first.job


async def test_other_inputs_and_other_tenants_share_nothing(yard: Yard) -> None:
    asked = [await ask(yard), await ask(yard, "y"), await ask(yard, tenant=2)]
    assert {one.found for one in asked} == {Found.MISS}
    assert await jobs(yard) == 3


async def test_a_policys_own_key_says_what_is_equal(yard: Yard) -> None:
    async def asked(line: str) -> UUID:
        async with yard.sessions.begin() as tx:
            return (await shared_runs.stage_cached(tx, Staged(TENANT, ByLength(line=line)))).job

    assert await asked("one") == await asked("two") != await asked("three")


async def test_an_invalidated_result_is_given_out_no_more(yard: Yard) -> None:
    await ask(yard)
    await ask(yard, "y")
    await carry_out(yard)
    async with yard.sessions.begin() as tx:
        like = Staged(TENANT, Looked(line="x"))
        assert await shared_runs.invalidate(tx, TENANT, Looked.kind, like=like) == 1
    assert (await ask(yard)).found is Found.MISS
    assert (await ask(yard, "y")).found is Found.HIT
    async with yard.sessions.begin() as tx:
        assert await shared_runs.invalidate(tx, 2, Looked.kind) == 0
        assert await shared_runs.invalidate(tx, TENANT, Looked.kind) == 2


async def test_a_run_under_way_is_not_shared_with_who_comes_after_an_invalidation(
    yard: Yard,
) -> None:
    before = await ask(yard)
    async with yard.sessions.begin() as tx:
        await shared_runs.invalidate(tx, TENANT, Looked.kind)
    after = await ask(yard)
    assert (after.found, after.job == before.job) == (Found.MISS, False)
    await carry_out(yard)
    assert (await ask(yard)).job == after.job


async def test_a_run_that_is_rolled_back_leaves_the_key_free(yard: Yard) -> None:
    async with yard.sessions() as tx:
        await shared_runs.stage_cached(tx, Staged(TENANT, Looked(line="x")))
        await tx.rollback()
    assert (await ask(yard)).found is Found.MISS
    assert await jobs(yard) == 1


async def test_a_cancelled_run_is_followed_by_another(yard: Yard) -> None:
    first = await ask(yard)
    await yard.sql("DELETE FROM goodsyard.job WHERE id = :id", id=first.job)
    assert (await ask(yard)).found is Found.MISS


async def test_the_producer_shares_runs_too(yard: Yard) -> None:
    producer = Producer(yard.sessions, yard.bell, TENANT)
    assert await producer.submit(Looked(line="x")) == await producer.submit(Looked(line="x"))


async def forget_all_expired(yard: Yard) -> None:
    """Let every key's time be over, and tidy up."""
    await yard.sql("UPDATE goodsyard.shared_run SET keep_until = now() - interval '1 second'")
    async with yard.sessions.begin() as tx:
        await shared_runs.forget_expired(tx)


async def test_expired_keys_are_forgotten_but_for_those_of_runs_under_way(yard: Yard) -> None:
    await ask(yard)
    await carry_out(yard)
    await ask(yard, "y")
    await forget_all_expired(yard)
    assert (await ask(yard, "y")).found is Found.UNDER_WAY
    assert (await ask(yard)).found is Found.MISS


async def test_keys_whose_time_is_not_over_are_kept(yard: Yard) -> None:
    await ask(yard)
    await carry_out(yard)
    async with yard.sessions.begin() as tx:
        await shared_runs.forget_expired(tx)
    assert (await ask(yard)).found is Found.HIT


async def test_who_gets_a_result_waits_for_nobody_who_holds_its_key(yard: Yard) -> None:
    first = await ask(yard)
    await carry_out(yard)
    async with yard.sessions.begin() as tx:
        await tx.execute(text("SELECT FROM goodsyard.shared_run FOR UPDATE"))
        again = await ask(yard)
    assert (again.job, again.found) == (first.job, Found.HIT)


async def test_a_kind_without_a_cache_has_none(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        with pytest.raises(ValueError, match="has no cache"):
            await shared_runs.stage_cached(tx, Staged(TENANT, Note()))


# Unique keys


async def test_of_many_with_a_unique_key_at_once_one_is_inserted(yard: Yard) -> None:
    asked = await asyncio.gather(*(once(yard) for _ in range(20)))
    assert len({one.job for one in asked}) == 1
    assert await jobs(yard) == 1


async def test_what_has_succeeded_stands_for_later_ones_in_its_period(yard: Yard) -> None:
    first = await once(yard)
    await yard.run(NOTES, await yard.dispatch())
    assert await once(yard) == Shared(first.job, Found.HIT)
    assert (await once(yard, "another")).found is Found.MISS
    await later(yard, 61)
    assert (await once(yard)).found is Found.MISS


async def test_a_live_job_that_came_without_a_period_has_the_key(yard: Yard) -> None:
    (plain,) = await yard.stage(Note(), unique_key="one")
    assert await once(yard) == Shared(plain, Found.UNDER_WAY)
    assert await jobs(yard) == 1


async def test_a_live_job_goes_before_one_that_is_over(yard: Yard) -> None:
    await once(yard)
    await yard.run(NOTES, await yard.dispatch())
    (plain,) = await yard.stage(Note(), unique_key="one")
    assert await once(yard) == Shared(plain, Found.UNDER_WAY)
    assert await jobs(yard) == 2


async def test_a_key_is_kept_for_the_longest_period_that_was_asked_for(yard: Yard) -> None:
    first = await once(yard)
    await yard.run(NOTES, await yard.dispatch())
    week = Unique({JobState.SUCCEEDED}, period=604_800)
    assert await once(yard, unique=week) == Shared(first.job, Found.HIT)
    await later(yard, 172_800)
    await yard.sql("UPDATE goodsyard.shared_run SET keep_until = keep_until - interval '2 days'")
    async with yard.sessions.begin() as tx:
        await shared_runs.forget_expired(tx)
    assert await once(yard, unique=week) == Shared(first.job, Found.HIT)
