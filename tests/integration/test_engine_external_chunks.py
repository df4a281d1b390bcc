"""A chunk of external jobs: claimed, called with no transaction open, settled in company."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import calling, calls_out, claims
from goodsyard.claims import Claimed
from goodsyard.flow import ExternalHandler
from goodsyard.job import Job, JobState
from goodsyard.outcomes import Outcome
from tests.askers import PATIENCE, Picky, Slow, asked_in_vain, called
from tests.yard import Ask, Asker, AskOnce, Yard, until


async def test_an_exception_in_one_call_does_not_touch_its_neighbours(yard: Yard) -> None:
    class Raises(Picky):
        async def bad(self) -> str:
            raise ConnectionResetError("gone")

    error, notes = await asked_in_vain(yard, Raises())
    assert error == "ConnectionResetError: gone"
    assert notes == ["a", "b"]


async def test_a_call_that_is_cancelled_under_us_does_not_touch_its_neighbours(yard: Yard) -> None:
    """As when a client library cancels the future that several of its callers share."""

    class Cancelled(Picky):
        async def bad(self) -> str:
            raise asyncio.CancelledError

    error, notes = await asked_in_vain(yard, Cancelled())
    assert error == "CancelledError: "
    assert notes == ["a", "b"]


async def test_a_call_that_hangs_is_given_up_and_does_not_hold_its_neighbours_back(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "CALL_SECONDS", 0.5)
    answered_first: list[str] = []

    class Hangs(Picky):
        async def bad(self) -> str:
            try:
                await asyncio.Event().wait()
            finally:
                answered_first.extend(await yard.notes())
            return "never"

    error, notes = await asked_in_vain(yard, Hangs())
    assert error == "no answer within 0.5 s: it may or may not have happened"
    assert answered_first == notes == ["a", "b"]


async def test_calls_that_hang_do_not_hold_later_chunks_back(yard: Yard) -> None:
    goes_on = asyncio.Event()

    class SomeHang(Asker):
        async def call(self, job: Job[Ask]) -> str:
            if job.payload.line == "hangs":
                await goes_on.wait()
            return await super().call(job)

    hanging = Ask.policy.chunk + 20  # together, more calls hang than a chunk has
    deliveries = await yard.deliver(*[Ask(line="answers"), Ask(line="hangs")] * hanging)
    executor = yard.executor(SomeHang())
    async with asyncio.timeout(PATIENCE):
        for first in range(0, len(deliveries), 40):
            await executor.run(Ask.kind, deliveries[first : first + 40])

    async def others_are_through() -> bool:
        return await yard.notes() == ["answers"] * hanging

    await until(others_are_through, "the others' answers")
    goes_on.set()
    await executor.drain()


async def test_no_transaction_is_open_during_a_call(yard: Yard) -> None:
    open_transactions: list[int] = []

    class Looks(Asker):
        async def call(self, job: Job[Ask]) -> str:
            ((count,),) = await yard.sql("""
                SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND backend_type = 'client backend'
                   AND pid <> pg_backend_pid() AND xact_start IS NOT NULL""")
            open_transactions.append(count)
            return await super().call(job)

    await yard.run(Looks(), await yard.deliver(Ask()))
    assert open_transactions == [0]


async def test_a_second_copy_makes_no_second_call(yard: Yard) -> None:
    slow, second = Slow(), Asker()
    deliveries = await yard.deliver(Ask(line="once"))
    first = asyncio.create_task(yard.run(slow, deliveries))
    await until(lambda: called(slow), "the first call")
    await yard.run(second, deliveries)
    slow.may_answer.set()
    await first
    await yard.run(second, deliveries)
    assert (len(slow.calls), second.calls) == (1, [])
    assert await yard.notes() == ["once"]


async def test_of_many_copies_at_once_one_makes_the_calls(yard: Yard) -> None:
    askers = [Asker() for _ in range(8)]
    deliveries = await yard.deliver(*(Ask(line=str(number)) for number in range(20)))
    await asyncio.gather(*(yard.run(asker, deliveries) for asker in askers))
    calls = [job for asker in askers for job in asker.calls]
    assert sorted(calls) == sorted(job for job, _ in deliveries)
    assert await yard.notes() == sorted(map(str, range(20)))


async def test_a_second_claim_neither_waits_for_the_first_nor_gets_its_jobs(yard: Yard) -> None:
    deliveries = await yard.deliver(Ask(), Ask())

    async def lease(tx: AsyncSession) -> list[Claimed]:
        return await claims.lease(tx, Ask.kind, deliveries, worker=uuid4(), seconds=45)

    async with yard.sessions.begin() as first, yard.sessions.begin() as second:
        assert len(await lease(first)) == 2
        async with asyncio.timeout(PATIENCE):
            assert await lease(second) == []


async def test_a_claim_is_a_lease_held_by_name(yard: Yard) -> None:
    slow, worker = Slow(), uuid4()
    ((job, fence),) = await yard.deliver(Ask())
    running = asyncio.create_task(yard.run(slow, [(job, fence)], worker=worker))
    await until(lambda: called(slow), "the call")
    (row,) = await yard.sql(
        "SELECT state::text, claimed_by, extract(epoch FROM deadline - now()) AS left "
        "  FROM goodsyard.job"
    )
    assert (row.state, row.claimed_by) == ("running", worker)
    assert Ask.policy.lease - 5 < row.left <= Ask.policy.lease
    slow.may_answer.set()
    await running


async def test_what_cannot_be_parsed_is_never_called(yard: Yard) -> None:
    asker = Asker()
    deliveries = await yard.deliver(Ask(line="good"), Ask(line="bad"))
    await yard.sql(
        """UPDATE goodsyard.job SET payload = '{"l": 1}' WHERE payload->>'line' = 'bad'"""
    )
    await yard.run(asker, deliveries)
    assert asker.calls == [deliveries[0][0]]
    dead = await yard.job(deliveries[1][0])
    assert (dead.state, dead.reason) == (JobState.DEAD, "refused")


async def test_a_job_knows_how_long_ago_it_was_first_started(yard: Yard) -> None:
    ages: list[float] = []

    class Ages(Asker):
        async def call(self, job: Job[Ask]) -> str:
            ages.append(job.age)
            raise TimeoutError

    (job,) = await yard.stage(Ask())
    for _ in range(2):
        await yard.run(Ages(), await yard.dispatch(Ask.kind))
        await yard.sql(
            "UPDATE goodsyard.job SET run_at = now(), started_at = now() - interval '21 hours'"
        )
    assert ages[0] == 0
    assert ages[1] == pytest.approx(21 * 3600, abs=60)
    assert (await yard.job(job)).attempts == 2


@pytest.mark.parametrize("where", ["call", "settle"])
async def test_a_call_that_may_not_be_repeated_is_for_a_person_once_it_went_wrong(
    yard: Yard, where: str
) -> None:
    class Fails(Asker):
        contract: type[Ask] = AskOnce

        async def call(self, job: Job[Ask]) -> str:
            if where == "call":
                raise ConnectionResetError("gone")
            return await super().call(job)

        async def settle(
            self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
        ) -> Sequence[Outcome]:
            raise LookupError("gone")

    ((job, fence),) = await yard.deliver(AskOnce())
    handler: ExternalHandler[Ask, str] = Fails()
    await yard.run(handler, [(job, fence)])
    dead = await yard.job(job)
    assert (dead.state, dead.reason) == (JobState.DEAD, "uncertain")
    assert "gone" in (dead.error or "")


async def test_the_next_chunk_is_taken_while_the_last_calls_of_one_are_out(yard: Yard) -> None:
    slow = Slow()
    executor = yard.executor(slow)
    for _ in range(3):
        async with asyncio.timeout(PATIENCE):
            await executor.run(Ask.kind, await yard.deliver(Ask()))
    await until(lambda: called(slow, 3), "three calls to be out")
    slow.may_answer.set()
    await executor.drain()
    assert len(await yard.notes()) == 3


async def test_a_worker_takes_no_third_chunk_while_two_are_out(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_out, "HANGING_SECONDS", PATIENCE)
    slow = Slow()
    executor = yard.executor(slow)
    first, second = [
        await yard.deliver(*[Ask()] * Ask.policy.chunk),
        await yard.deliver(*[Ask()] * Ask.policy.chunk),
    ]
    await executor.run(Ask.kind, first)
    running = asyncio.create_task(executor.run(Ask.kind, second))
    await until(lambda: called(slow, 2 * Ask.policy.chunk), "two chunks of calls to be out")
    assert not running.done()
    slow.may_answer.set()
    async with asyncio.timeout(PATIENCE):
        await running
    await executor.drain()
