"""Relays take what is due, urgent first, each job once, and give back what they couldn't send."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import dispatch, limited, limits
from goodsyard.claims import Delivery
from goodsyard.contracts import Rate
from goodsyard.dispatch import DISPATCH_SECONDS
from goodsyard.flow import DatabaseHandler
from goodsyard.interventions import Actor, pause_queue
from goodsyard.job import Job
from goodsyard.outcomes import Outcome
from tests.yard import NOTES, TENANT, Ask, Note, Yard, note_all

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def take_back(yard: Yard, deliveries: Sequence[Delivery]) -> None:
    async with yard.sessions.begin() as tx:
        await dispatch.take_back(tx, deliveries)


async def test_jobs_go_by_priority_and_then_by_their_time(yard: Yard) -> None:
    wanted = []
    for priority in (0, 5, 9):
        for minute in range(3):
            due = LONG_AGO + timedelta(minutes=minute)
            wanted.append((priority, due))
    ids = {}
    for priority, due in reversed(wanted):  # inserted, and so numbered, the other way round
        (ids[priority, due],) = await yard.stage(Note(), priority=priority, run_at=due)
    assert [job for job, _ in await yard.dispatch()] == [ids[place] for place in wanted]


async def test_a_round_that_is_too_small_for_all_takes_the_first(yard: Yard) -> None:
    (later,) = await yard.stage(Note(), run_at=LONG_AGO + timedelta(hours=1))
    (urgent,) = await yard.stage(Note(), priority=0)
    (first,) = await yard.stage(Note(), run_at=LONG_AGO)
    rounds = [[job for job, _ in await yard.dispatch(most=1)] for _ in range(4)]
    assert rounds == [[urgent], [first], [later], []]


async def test_no_job_goes_before_its_time(yard: Yard) -> None:
    await yard.stage(Note(), run_at=datetime.now(UTC) + timedelta(minutes=1), priority=0)
    async with yard.sessions.begin() as tx:
        assert await dispatch.due_kinds(tx, [Note.kind]) == set()
    assert await yard.dispatch() == []


async def test_a_round_takes_only_its_own_kind(yard: Yard) -> None:
    await yard.stage(Ask())
    (note,) = await yard.stage(Note())
    assert [job for job, _ in await yard.dispatch(Note.kind)] == [note]


async def test_the_kinds_that_are_due_are_those_with_a_job_due(yard: Yard) -> None:
    class Idle(Note):
        kind: ClassVar[str] = "test.idle"

    await yard.stage(Note(), priority=9)
    await yard.stage(Ask(), run_at=datetime.now(UTC) + timedelta(minutes=1))
    async with yard.sessions.begin() as tx:
        assert await dispatch.due_kinds(tx, [Note.kind, Ask.kind, Idle.kind]) == {Note.kind}


async def test_each_dispatch_raises_the_fence_and_leaves_the_time_it_was_due(yard: Yard) -> None:
    (job,) = await yard.stage(Note(), run_at=LONG_AGO)
    fences = []
    for _ in range(3):
        deliveries = await yard.dispatch()
        fences += [fence for _, fence in deliveries]
        await take_back(yard, deliveries)
    assert fences == [1, 2, 3]
    assert (await yard.job(job)).run_at == LONG_AGO


async def test_the_time_to_answer_doubles_with_every_loss(yard: Yard) -> None:
    ids = await yard.stage(*(Note(line=str(lost)) for lost in range(9)))
    for lost, job in enumerate(ids):
        await yard.sql("UPDATE goodsyard.job SET lost = :lost WHERE id = :id", lost=lost, id=job)
    async with yard.sessions.begin() as tx:
        await dispatch.dispatch(tx, Note.kind, 100)
    seconds = await yard.sql(
        "SELECT round(extract(epoch FROM deadline - transaction_timestamp()))::int AS left "
        "  FROM goodsyard.job ORDER BY id"
    )
    expected = [DISPATCH_SECONDS * 2 ** min(lost, 6) for lost in range(9)]
    assert [abs(row.left - most) <= 2 for row, most in zip(seconds, expected, strict=True)] == [
        True
    ] * 9


async def test_dispatches_of_several_relays_never_overlap(yard: Yard) -> None:
    ids = await yard.stage(*(Note() for _ in range(1_000)))

    async def relay() -> list[Delivery]:
        mine: list[Delivery] = []
        while batch := await yard.dispatch(most=37):
            mine += batch
        return mine

    shares = await asyncio.gather(*(relay() for _ in range(6)))
    assert sorted(job for share in shares for job, _ in share) == ids
    assert {fence for share in shares for _, fence in share} == {1}


async def test_dispatches_of_several_relays_never_exceed_the_limit(yard: Yard) -> None:
    burst = 100
    await yard.stage(*(Note() for _ in range(400)))
    async with yard.sessions.begin() as tx:
        await limits.set_limit(tx, Note.kind, Rate("1/day", burst=burst))

    async def relay() -> int:
        total = 0
        for _ in range(20):
            async with yard.sessions.begin() as tx:
                found = await limited.dispatch(tx, Note, 13)
                total += len(found.jobs) if found else 0
        return total

    assert sum(await asyncio.gather(*(relay() for _ in range(6)))) == burst


async def test_what_is_taken_back_waits_again_and_its_message_is_void(yard: Yard) -> None:
    deliveries = await yard.deliver(Note(line="a"), Note(line="b"))
    await take_back(yard, deliveries)
    await yard.run(NOTES, deliveries)  # the messages did get through after all
    assert await yard.notes() == []
    again = await yard.dispatch()
    assert again == [(job, fence + 1) for job, fence in deliveries]
    await yard.run(NOTES, again)
    assert await yard.notes() == ["a", "b"]


async def test_taking_back_leaves_what_has_gone_on_since(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note())
    await yard.sql("UPDATE goodsyard.job SET fence = fence + 1")  # lost, and dispatched once more
    await take_back(yard, [(job, fence)])
    assert await yard.states([job]) == ["dispatched"]


async def test_taking_back_never_waits_for_a_chunk_that_got_the_message_after_all(
    yard: Yard,
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        begun.set()
        await may_end.wait()
        return await note_all(chunk, tx)

    sent, unsent = await yard.deliver(Note(line="sent"), Note(line="unsent"))
    running = asyncio.create_task(yard.run(DatabaseHandler(Note, slow), [sent]))
    await begun.wait()
    async with asyncio.timeout(2):
        await take_back(yard, [sent, unsent])
    assert await yard.states([unsent[0]]) == ["waiting"]
    may_end.set()
    await running
    assert await yard.notes() == ["sent"]


async def test_relays_hear_of_a_queue_on_hold(yard: Yard) -> None:
    for paused, expected in ((True, {"orders"}), (False, set())):
        async with yard.sessions.begin() as tx:
            assert await pause_queue(tx, Actor(TENANT, "ann"), "orders", paused=paused)
            assert await dispatch.paused_queues(tx) == expected


async def test_the_time_of_a_dispatch_is_the_databases(yard: Yard) -> None:
    await yard.stage(Note(), Note())
    async with yard.sessions.begin() as tx:
        now = await tx.scalar(text("SELECT extract(epoch FROM now())::float8"))
        assert [job.sent_at for job in (await dispatch.dispatch(tx, Note.kind, 2)).jobs] == [
            now,
            now,
        ]
