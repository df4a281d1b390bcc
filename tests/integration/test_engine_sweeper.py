"""What nobody answers for comes back, and only that; who lost it too often is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import claims, heartbeat, sweeper
from goodsyard.contracts import Contract
from goodsyard.dispatch import DISPATCH_SECONDS, QUARANTINE, QUARANTINE_AFTER
from goodsyard.flow import DatabaseHandler
from goodsyard.heartbeat import Worker
from goodsyard.job import Job, JobState
from goodsyard.outcomes import Outcome
from goodsyard.sweeper import ALIVE_SECONDS, CRASH_BUDGET, SILENT_SECONDS, Returned
from tests.yard import NOTES, Ask, AskOnce, Note, Yard, note_all


async def sweep(
    yard: Yard, *kinds: type[Contract], queued_since: dict[str, float] | None = None
) -> list[Returned]:
    """Take overdue jobs of kinds with a live worker back."""
    async with yard.sessions.begin() as tx:
        return await sweeper.return_overdue(tx, kinds or (Note, Ask), queued_since or {})


async def later(yard: Yard, seconds: float) -> None:
    """Move every deadline closer, as if so many seconds had passed."""
    await yard.sql("UPDATE goodsyard.job SET deadline = deadline - make_interval(secs => :s)",
                   s=seconds)  # fmt: skip


async def join(yard: Yard, *queues: str, silent: float = 0) -> UUID:
    """Register a worker process that beat so many seconds ago."""
    worker = Worker(uuid4(), "node", queues)
    async with yard.sessions.begin() as tx:
        await heartbeat.beat(tx, worker)
    await yard.sql(
        "UPDATE goodsyard.worker SET beat_at = now() - make_interval(secs => :s) WHERE id = :id",
        s=silent,
        id=worker.id,
    )
    return worker.id


async def lease(yard: Yard, contract: Ask, worker: UUID) -> UUID:
    """Have ``worker`` claim a job and then say no more."""
    deliveries = await yard.deliver(contract)
    async with yard.sessions.begin() as tx:
        (claimed,) = await claims.lease(tx, contract.kind, deliveries, worker=worker, seconds=45)
    return claimed.id


async def test_a_delivery_nobody_answers_for_waits_again_and_counts_as_lost(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note(line="x"))
    await later(yard, DISPATCH_SECONDS)
    assert await sweep(yard) == [Returned(job, None, Note.kind, JobState.WAITING)]
    back = await yard.job(job)
    assert (back.state, back.lost, back.attempts) == (JobState.WAITING, 1, 0)
    await yard.run(NOTES, [(job, fence)])  # the message turns up after all
    assert await yard.notes() == []
    assert await yard.dispatch() == [(job, fence + 1)]


async def test_nothing_is_returned_before_its_deadline(yard: Yard) -> None:
    await yard.deliver(Note())
    await later(yard, DISPATCH_SECONDS - 1)
    assert await sweep(yard) == []


async def test_while_no_worker_of_its_queue_lives_nothing_is_returned(yard: Yard) -> None:
    ((job, _),) = await yard.deliver(Note())
    await later(yard, 3_600)
    assert await sweep(yard, Ask) == []
    assert (await yard.job(job)).lost == 0


async def test_a_queue_is_live_while_one_of_its_workers_has_beaten_lately(yard: Yard) -> None:
    await join(yard, "orders", "payments")
    await join(yard, "orders", silent=ALIVE_SECONDS - 1)
    await join(yard, "payments", "notifications", silent=ALIVE_SECONDS + 1)
    async with yard.sessions.begin() as tx:
        assert await sweeper.live_queues(tx) == {"orders": 2, "payments": 1}


async def test_a_worker_that_leaves_is_gone_at_once(yard: Yard) -> None:
    worker = await join(yard, "orders")
    async with yard.sessions.begin() as tx:
        await heartbeat.leave(tx, worker)
        assert await sweeper.live_queues(tx) == {}


async def test_claims_of_a_silent_worker_are_due_at_once(yard: Yard) -> None:
    silent = await join(yard, "payments", silent=SILENT_SECONDS + 1)
    lively = await join(yard, "payments", silent=SILENT_SECONDS - 2)
    orphan, kept = await lease(yard, Ask(), silent), await lease(yard, Ask(), lively)
    nobodys = await lease(yard, Ask(), uuid4())  # its row went, with all that was known of it
    assert {returned.id for returned in await sweep(yard)} == {orphan, nobodys}
    assert await yard.states([orphan, kept, nobodys]) == ["waiting", "running", "waiting"]


async def test_a_lease_that_ended_is_due_even_if_its_worker_lives(yard: Yard) -> None:
    job = await lease(yard, Ask(), await join(yard, "payments"))
    await later(yard, Ask.policy.lease)
    assert [returned.id for returned in await sweep(yard)] == [job]


async def test_a_job_that_lost_its_worker_too_often_is_dead(yard: Yard) -> None:
    (job,) = await yard.stage(Note())
    for lost in range(1, CRASH_BUDGET + 1):
        assert len(await yard.dispatch()) == 1
        await later(yard, 3_600)
        assert len(await sweep(yard)) == 1
        assert (await yard.job(job)).lost == lost
    dead = await yard.job(job)
    assert (dead.state, dead.reason, dead.attempts) == (JobState.DEAD, "lost", 0)
    assert dead.error == f"its worker died or fell silent {CRASH_BUDGET} times"
    assert dead.finished_at is not None
    assert await yard.dispatch() == []


async def test_a_call_that_may_not_be_repeated_is_for_a_person_once_its_worker_is_gone(
    yard: Yard,
) -> None:
    called = await lease(yard, AskOnce(), await join(yard, "payments", silent=60))
    ((uncalled, _),) = await yard.deliver(AskOnce())
    await later(yard, 3_600)
    await sweep(yard, AskOnce)
    dead, waiting = await yard.job(called), await yard.job(uncalled)
    assert (dead.state, dead.reason) == (JobState.DEAD, "uncertain")
    assert waiting.state is JobState.WAITING


async def test_what_is_being_carried_out_is_not_lost_however_late_it_is(yard: Yard) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        begun.set()
        await may_end.wait()
        return await note_all(chunk, tx)

    deliveries = await yard.deliver(Note(line="late"))
    await later(yard, 3_600)
    running = asyncio.create_task(yard.run(DatabaseHandler(Note, slow), deliveries))
    await begun.wait()
    async with asyncio.timeout(2):
        assert await sweep(yard) == []
    may_end.set()
    await running
    assert await yard.notes() == ["late"]


async def dispatched_at(yard: Yard, job: UUID) -> float:
    """Return when a job that was never lost was dispatched, in seconds since 1970."""
    ((at,),) = await yard.sql(
        "SELECT extract(epoch FROM deadline - make_interval(secs => :s))::float8 "
        "  FROM goodsyard.job WHERE id = :id",
        s=DISPATCH_SECONDS,
        id=job,
    )
    assert isinstance(at, float)
    return at


async def test_what_merely_waits_in_a_long_queue_is_not_lost(yard: Yard) -> None:
    """The oldest message in the queue is its own, or was sent before it."""
    ((job, _),) = await yard.deliver(Note())
    await later(yard, 60)
    at = await dispatched_at(yard, job)
    for oldest in (at, at - 30):
        assert await sweep(yard, queued_since={"orders": oldest}) == []
    assert (await yard.job(job)).lost == 0


async def test_what_was_sent_before_all_that_is_queued_is_lost(yard: Yard) -> None:
    ((job, _),) = await yard.deliver(Note())
    await later(yard, 60)
    at = await dispatched_at(yard, job)
    assert await sweep(
        yard, queued_since={"payments": at - 30, QUARANTINE: at - 30, "orders": at + 1}
    )
    assert (await yard.job(job)).lost == 1


async def test_a_queue_that_stays_long_hides_no_lost_message_for_ever(yard: Yard) -> None:
    """To be spared changes nothing about when the message was sent."""
    ((job, _),) = await yard.deliver(Note())
    await later(yard, 60)
    at = await dispatched_at(yard, job)
    for oldest in (at - 60, at - 30, at):
        assert await sweep(yard, queued_since={"orders": oldest}) == []
    assert len(await sweep(yard, queued_since={"orders": at + 1})) == 1


async def test_a_job_in_quarantine_may_wait_there(yard: Yard) -> None:
    await yard.stage(Note())
    await yard.sql("UPDATE goodsyard.job SET lost = :lost", lost=QUARANTINE_AFTER)
    await yard.dispatch()
    await later(yard, 3_600)
    assert await sweep(yard, queued_since={QUARANTINE: 0}) == []
    assert len(await sweep(yard, queued_since={})) == 1


async def test_a_claim_is_not_spared_by_a_long_queue(yard: Yard) -> None:
    job = await lease(yard, Ask(), await join(yard, "payments"))
    await later(yard, 3_600)
    swept = await sweep(yard, queued_since={"payments": 0, QUARANTINE: 0})
    assert [returned.id for returned in swept] == [job]


async def test_several_sweepers_return_each_job_once(yard: Yard) -> None:
    ids = await yard.stage(*(Note() for _ in range(300)))
    await yard.dispatch()
    await later(yard, 60)
    swept = await asyncio.gather(*(sweep(yard) for _ in range(5)))
    assert sorted(returned.id for share in swept for returned in share) == ids
    assert {(await yard.job(job)).lost for job in ids[::50]} == {1}


async def reset(yard: Yard) -> int:
    async with yard.sessions.begin() as tx:
        return await sweeper.reset_dispatched(tx)


async def test_when_redis_forgot_all_that_was_dispatched_waits_and_nothing_is_counted(
    yard: Yard,
) -> None:
    running = await lease(yard, Ask(), await join(yard, "payments"))
    deliveries = await yard.deliver(Note(line="a"), Note(line="b"))
    ids = [job for job, _ in deliveries]
    assert [await reset(yard), await reset(yard)] == [2, 0]
    assert await yard.states([*ids, running]) == ["waiting", "waiting", "running"]
    assert {(job.lost, job.attempts) for job in [await yard.job(i) for i in ids]} == {(0, 0)}
    await yard.run(NOTES, deliveries)  # a message that Redis had not forgotten
    assert await yard.notes() == []


async def test_a_reset_never_waits_behind_a_chunk(yard: Yard) -> None:
    deliveries = await yard.deliver(Note(line="busy"), Note(line="free"))
    async with AsyncExitStack() as stack:
        tx = await stack.enter_async_context(yard.sessions.begin())
        await claims.lock_dispatched(tx, Note.kind, deliveries[:1])
        async with asyncio.timeout(2):
            assert await reset(yard) == 1
            assert await reset(yard) == 0
    assert await yard.states([job for job, _ in deliveries]) == ["dispatched", "waiting"]


@pytest.mark.parametrize("age", [0.0, 7_300.0])
async def test_only_long_silent_workers_are_forgotten(yard: Yard, age: float) -> None:
    await join(yard, "orders", silent=age)
    async with yard.sessions.begin() as tx:
        await heartbeat.forget_silent(tx)
    ((left,),) = await yard.sql("SELECT count(*) FROM goodsyard.worker")
    assert left == (1 if age == 0 else 0)
