"""A chunk of database jobs: each takes effect in the commit that ends it, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.flow import DatabaseHandler
from goodsyard.job import Job, JobState, new_id
from goodsyard.outcomes import Done, Outcome
from tests.yard import NOTES, TENANT, Note, Yard, note_all

NEVER_WAITS = 3.0
"""Seconds that are plenty for a chunk, and less than any lock would be waited for."""


async def test_of_many_copies_of_a_delivery_one_takes_effect(yard: Yard) -> None:
    deliveries = await yard.deliver(*(Note(line=str(number)) for number in range(40)))
    await asyncio.gather(*(yard.run(NOTES, deliveries) for _ in range(8)))
    assert await yard.notes() == sorted(map(str, range(40)))
    assert await yard.states([job for job, _ in deliveries]) == ["succeeded"] * 40


async def test_a_copy_that_comes_after_the_end_does_nothing(yard: Yard) -> None:
    deliveries = await yard.deliver(Note(line="once"))
    await yard.run(NOTES, deliveries)
    await yard.run(NOTES, deliveries)
    assert await yard.notes() == ["once"]


async def test_a_stale_fence_does_nothing(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note(line="late"))
    await yard.sql("UPDATE goodsyard.job SET fence = fence + 1")  # what a second dispatch does
    await yard.run(NOTES, [(job, fence)])
    assert await yard.notes() == []
    assert await yard.states([job]) == ["dispatched"]


async def test_a_fence_of_the_future_does_nothing(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note(line="forged"))
    await yard.run(NOTES, [(job, fence + 1)])
    assert await yard.notes() == []


async def test_a_delivery_of_another_kind_does_nothing(yard: Yard) -> None:
    class Other(Note):
        kind: ClassVar[str] = "test.other"

    ((job, fence),) = await yard.deliver(Other(line="not mine"))
    await yard.run(NOTES, [(job, fence)])
    assert await yard.notes() == []
    assert await yard.states([job]) == ["dispatched"]


async def test_a_delivery_of_no_job_at_all_does_nothing(yard: Yard) -> None:
    await yard.run(NOTES, [(new_id(), 1)])
    assert await yard.notes() == []


async def test_a_job_that_waits_again_is_not_run_by_the_message_of_before(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note(line="early"))
    await yard.sql("UPDATE goodsyard.job SET state = 'waiting', deadline = NULL")
    await yard.run(NOTES, [(job, fence)])
    assert await yard.notes() == []


async def test_a_second_copy_never_waits_for_the_first(yard: Yard) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        begun.set()
        await may_end.wait()
        return await note_all(chunk, tx)

    deliveries = await yard.deliver(Note(line="once"))
    first = asyncio.create_task(yard.run(DatabaseHandler(Note, slow), deliveries))
    await begun.wait()
    async with asyncio.timeout(NEVER_WAITS):
        await yard.run(NOTES, deliveries)
    assert await yard.notes() == []
    may_end.set()
    await first
    assert await yard.notes() == ["once"]


async def test_effect_end_and_next_jobs_are_one_commit(yard: Yard) -> None:
    """Seen from outside: before the commit nothing of it is there, after it all of it is."""
    seen: list[tuple[list[str], str]] = []

    async def look(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        outcomes = await note_all(chunk, tx)
        (state,) = await yard.states([chunk[0].id])
        seen.append((await yard.notes(), state))
        return [Done(next=[Note(line="next")]) for _ in outcomes]

    ((job, fence),) = await yard.deliver(Note(line="now"))
    await yard.run(DatabaseHandler(Note, look), [(job, fence)])
    assert seen == [([], "dispatched")]
    assert await yard.notes() == ["now"]
    assert await yard.states([job]) == ["succeeded"]
    assert len(await yard.dispatch()) == 1


async def test_what_comes_next_inherits_tenant_parent_and_trace(yard: Yard) -> None:
    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        return [Done(next=[Note(line="a"), Note(line="b")]) for _ in chunk]

    (job,) = await yard.deliver(Note(), trace_context="00-abc-def-01")
    await yard.run(DatabaseHandler(Note, run), [job])
    staged = [await yard.job(next_job) for next_job, _ in await yard.dispatch()]
    assert [(n.tenant, n.parent_id, n.trace_context) for n in staged] == [
        (TENANT, job[0], "00-abc-def-01")
    ] * 2


async def test_a_job_keeps_its_result_and_its_times(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note(line="x"))
    await yard.run(NOTES, [(job, fence)])
    ended = await yard.job(job)
    assert ended.result == {"noted": "x"}
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert ended.created_at <= ended.started_at <= ended.finished_at


async def test_a_chunk_that_raises_is_run_one_by_one_and_only_the_culprit_fails(
    yard: Yard,
) -> None:
    sizes: list[int] = []

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        sizes.append(len(chunk))
        outcomes = await note_all(chunk, tx)  # also the culprit's effect: it must be undone
        if any(job.payload.line == "3" for job in chunk):
            raise LookupError("three")
        return outcomes

    deliveries = await yard.deliver(*(Note(line=str(number)) for number in range(6)))
    await yard.run(DatabaseHandler(Note, run), deliveries)
    assert sizes == [6, 1, 1, 1, 1, 1, 1]
    assert await yard.notes() == ["0", "1", "2", "4", "5"]
    states = await yard.states([job for job, _ in deliveries])
    assert states == ["succeeded"] * 3 + ["waiting"] + ["succeeded"] * 2
    failed = await yard.job(deliveries[3][0])
    assert (failed.attempts, failed.error) == (1, "LookupError: three")


async def test_a_payload_that_does_not_fit_is_refused_and_harms_no_neighbour(yard: Yard) -> None:
    deliveries = await yard.deliver(Note(line="good"), Note(line="bad"), Note(line="fine"))
    await yard.sql(
        """UPDATE goodsyard.job SET payload = '{"lines": 7}' WHERE payload ->> 'line' = 'bad'"""
    )
    await yard.run(NOTES, deliveries)
    assert await yard.notes() == ["fine", "good"]
    dead = await yard.job(deliveries[1][0])
    assert (dead.state, dead.reason) == (JobState.DEAD, "refused")
    assert "lines" in (dead.error or "")


@pytest.mark.parametrize("count", [0, 2])
async def test_a_handler_that_returns_a_wrong_count_fails_loudly_and_without_effect(
    yard: Yard, count: int
) -> None:
    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        await note_all(chunk, tx)
        return [Done()] * count

    ((job, fence),) = await yard.deliver(Note(line="x"))
    await yard.run(DatabaseHandler(Note, run), [(job, fence)])
    assert await yard.notes() == []
    assert (await yard.job(job)).error == (
        f"OutcomeCountError: test.note owed 1 outcomes, one a job, and gave {count}"
    )
