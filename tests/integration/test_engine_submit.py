"""A job exists exactly if its business rows do, and a unique one exists once while it is live."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.job import JobState, new_id
from goodsyard.submit import DEFAULT_PRIORITY, Staged, stage, stage_unique
from tests.yard import NOTES, TENANT, Ask, Note, Yard, write


def unique(line: str, key: str = "k", tenant: int = TENANT) -> Staged:
    return Staged(tenant, Note(line=line), unique_key=key)


async def submit(yard: Yard, staged: Staged) -> UUID:
    async with yard.sessions.begin() as tx:
        return await stage_unique(tx, staged)


async def test_a_job_and_its_business_rows_exist_both_or_neither(yard: Yard) -> None:
    for commits in (False, True):
        async with yard.sessions() as tx:
            await write(tx, [(new_id(), "an order")])
            await stage(tx, [Staged(TENANT, Note())])
            await (tx.commit() if commits else tx.rollback())
        assert (len(await yard.notes()), len(await yard.dispatch())) == (commits, commits)


async def test_a_job_is_stored_as_it_was_staged(yard: Yard) -> None:
    about, due = new_id(), datetime(2031, 5, 17, 12, 30, tzinfo=UTC)
    staged = Staged(
        TENANT,
        Note(line="x", about=about),
        run_at=due,
        priority=2,
        unique_key="k",
        parent_id=new_id(),
        trace_context="00-abc-def-01",
    )
    async with yard.sessions.begin() as tx:
        assert await stage(tx, [staged]) == {staged.id}
    job = await yard.job(staged.id)
    assert (job.kind, job.state, job.run_at, job.priority) == (
        "test.note",
        JobState.WAITING,
        due,
        2,
    )
    assert (job.subject, job.parent_id, job.unique_key) == (about, staged.parent_id, "k")
    assert (job.trace_context, job.max_attempts) == ("00-abc-def-01", Note.policy.max_attempts)
    assert job.payload == {"line": "x", "about": str(about)}


async def test_many_jobs_of_several_kinds_go_in_at_once(yard: Yard) -> None:
    """Lists in which some, all or none have a value: each is sent as an array."""
    staged = [
        Staged(TENANT, Note()),
        Staged(2**31 - 1, Ask(), run_at=datetime(2031, 1, 1, tzinfo=UTC), unique_key="a"),
        Staged(TENANT, Note(about=new_id()), priority=0, parent_id=new_id(), trace_context="t"),
    ]
    async with yard.sessions.begin() as tx:
        assert await stage(tx, staged) == {job.id for job in staged}
        assert await stage(tx, []) == set()


async def test_a_job_without_a_time_is_due_at_once_by_the_databases_clock(yard: Yard) -> None:
    (job,) = await yard.stage(Note())
    staged = await yard.job(job)
    assert (staged.run_at, staged.priority) == (staged.created_at, DEFAULT_PRIORITY)
    assert [job] == [job for job, _ in await yard.dispatch()]


async def test_while_a_job_is_live_its_unique_key_is_taken(yard: Yard) -> None:
    first = await submit(yard, unique("first"))
    assert await submit(yard, unique("second")) == first
    (delivery,) = await yard.dispatch()
    assert await submit(yard, unique("third")) == first
    await yard.run(NOTES, [delivery])
    assert await yard.notes() == ["first"]
    assert await submit(yard, unique("fourth")) != first


async def test_a_dead_job_holds_no_unique_key(yard: Yard) -> None:
    first = await submit(yard, unique("first"))
    await yard.sql("UPDATE goodsyard.job SET state = 'dead', reason = 'attempts'")
    assert await submit(yard, unique("second")) != first


async def test_a_unique_key_is_its_tenants_and_its_kinds_own(yard: Yard) -> None:
    ids = {
        await submit(yard, unique("a")),
        await submit(yard, unique("b", key="other")),
        await submit(yard, unique("c", tenant=2)),
        await submit(yard, Staged(TENANT, Ask(), unique_key="k")),
    }
    assert len(ids) == 4


async def test_of_a_chunk_with_a_taken_key_the_others_go_in(yard: Yard) -> None:
    await submit(yard, unique("first"))
    staged = [Staged(TENANT, Note()), unique("second"), Staged(TENANT, Note())]
    async with yard.sessions.begin() as tx:
        assert await stage(tx, staged) == {staged[0].id, staged[2].id}


async def test_of_many_equal_submissions_at_once_one_job_is_made(yard: Yard) -> None:
    ids = await asyncio.gather(*(submit(yard, unique(str(n))) for n in range(30)))
    assert len(set(ids)) == 1
    assert len(await yard.dispatch()) == 1


async def test_a_submission_that_waits_for_a_twin_which_is_rolled_back_goes_in(yard: Yard) -> None:
    async with yard.sessions() as tx:
        twin = await stage_unique(tx, unique("twin"))
        waiting = asyncio.create_task(submit(yard, unique("mine")))
        await asyncio.sleep(0)
        await tx.rollback()
    assert await waiting != twin
    assert len(await yard.dispatch()) == 1


async def test_a_submission_whose_twin_ends_before_it_is_named_goes_in(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(yard, unique("first"))
    deliveries = await yard.dispatch()

    async def stage_while_the_twin_ends(tx: AsyncSession, staged: Sequence[Staged]) -> set[UUID]:
        inserted = await stage(tx, staged)
        await yard.run(NOTES, deliveries)
        return inserted

    monkeypatch.setattr("goodsyard.submit.stage", stage_while_the_twin_ends)
    second = unique("second")
    assert await submit(yard, second) == second.id
    await yard.run(NOTES, await yard.dispatch())
    assert await yard.notes() == ["first", "second"]


@pytest.mark.parametrize("priority", [-1, 10])
async def test_a_priority_there_is_none_of_is_refused_by_the_schema(
    yard: Yard, priority: int
) -> None:
    with pytest.raises(Exception, match="job_priority_check"):
        await yard.stage(Note(), priority=priority)
