"""Answers are written down in company, each once, by whoever still holds the job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import patience, sweeper
from goodsyard.claims import Delivery
from goodsyard.job import Job, JobState
from goodsyard.outcomes import Dead, Done, Outcome, Retry
from tests.askers import Picky, Slow, asked_in_vain, called
from tests.yard import Ask, Asker, Yard, until

PID = text("SELECT pg_backend_pid()")
SHUT_DOWN = text("DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '57P01'; END $$")


async def test_settlement_is_grouped(yard: Yard) -> None:
    """Calls that end together share a commit, however many they are."""
    slow = Slow()
    deliveries = await yard.deliver(*(Ask(line=f"{number:03}") for number in range(50)))
    running = asyncio.create_task(yard.run(slow, deliveries))

    await until(lambda: called(slow, 50), "all calls")
    slow.may_answer.set()
    await running
    assert sum(slow.settled) == 50
    assert len(slow.settled) <= 2
    assert await yard.notes() == [f"{number:03}" for number in range(50)]


async def test_a_call_that_is_over_is_settled_while_others_are_out(yard: Yard) -> None:
    class Halting(Picky):
        may_answer = asyncio.Event()

        async def bad(self) -> str:
            await self.may_answer.wait()
            return "late"

    halting = Halting()
    deliveries = await yard.deliver(Ask(line="soon"), Ask(line="bad"))
    running = asyncio.create_task(yard.run(halting, deliveries))

    async def settled() -> bool:
        return await yard.notes() == ["soon"]

    await until(settled, "the first answer to be booked")
    halting.may_answer.set()
    await running
    assert await yard.notes() == ["late", "soon"]


async def take_back(yard: Yard) -> Delivery:
    """Let the lease of the only job end, have the sweeper return it, and dispatch it again."""
    await yard.sql("INSERT INTO goodsyard.worker (id, node, pid, queues) "
                   "SELECT claimed_by, 'n', 1, '{payments}' FROM goodsyard.job")  # fmt: skip
    await yard.sql("UPDATE goodsyard.job SET deadline = now() - interval '1 s'")
    async with yard.sessions.begin() as tx:
        assert len(await sweeper.return_overdue(tx, [Ask], {})) == 1
    (delivery,) = await yard.dispatch(Ask.kind)
    return delivery


@pytest.mark.parametrize("first_answer", ["before", "after"])
async def test_a_fenced_off_answer_is_dropped_and_the_new_holders_counts(
    yard: Yard, first_answer: str
) -> None:
    class Sleeper(Slow):
        async def call(self, job: Job[Ask]) -> str:
            await super().call(job)
            return "of the first"

    sleeper, successor = Sleeper(), Slow()
    ((job, fence),) = await yard.deliver(Ask(line="of the second"))
    first = asyncio.create_task(yard.run(sleeper, [(job, fence)]))
    await until(lambda: called(sleeper), "the first call")
    second = asyncio.create_task(yard.run(successor, [await take_back(yard)]))
    await until(lambda: called(successor), "the second call")

    order = [(sleeper, first), (successor, second)]
    for asker, running in order if first_answer == "before" else reversed(order):
        asker.may_answer.set()
        await running
    assert await yard.notes() == ["of the second"]
    assert (await yard.job(job)).result == {"answer": "of the second"}
    assert sleeper.settled == []


async def test_a_settlement_that_raises_fails_its_culprit_alone_and_calls_nobody_again(
    yard: Yard,
) -> None:
    class CannotBook(Asker):
        async def settle(
            self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
        ) -> Sequence[Outcome]:
            outcomes = await super().settle(tx, answered)
            if any(answer == "bad" for _, answer in answered):
                raise LookupError("no such account")
            return outcomes

    asker = CannotBook()
    error, notes = await asked_in_vain(yard, asker)
    assert error == "LookupError: no such account"
    assert notes == ["a", "b"]
    assert len(asker.calls) == 3


async def test_a_settlement_of_a_wrong_count_fails_loudly_and_without_effect(yard: Yard) -> None:
    class Miscounts(Asker):
        async def settle(
            self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
        ) -> Sequence[Outcome]:
            return [*await super().settle(tx, answered), Done()]

    ((job, fence),) = await yard.deliver(Ask())
    await yard.run(Miscounts(), [(job, fence)])
    assert await yard.notes() == []
    assert (await yard.job(job)).error == (
        "OutcomeCountError: test.ask owed 1 outcomes, one a job, and gave 2"
    )


async def test_outcomes_of_a_settlement_are_a_jobs_own(yard: Yard) -> None:
    outcomes: dict[str, Outcome] = {
        "done": Done(), "retry": Retry("busy", after=7), "dead": Dead("uncertain", "who knows"),
    }  # fmt: skip

    class Mixed(Asker):
        async def settle(
            self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
        ) -> Sequence[Outcome]:
            return [outcomes[answer] for _, answer in answered]

    lines = ["dead", "done", "retry", "done", "dead"]
    deliveries = await yard.deliver(*(Ask(line=line) for line in lines))
    await yard.run(Mixed(), deliveries)
    states = await yard.states([job for job, _ in deliveries])
    assert states == ["dead", "succeeded", "waiting", "succeeded", "dead"]


async def test_answers_outlive_a_lost_connection_and_call_nobody_again(yard: Yard) -> None:
    class Unlucky(Asker):
        struck = False

        async def settle(
            self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
        ) -> Sequence[Outcome]:
            outcomes = await super().settle(tx, answered)
            if not self.struck:
                self.struck = True
                ((backend,),) = (await tx.execute(PID)).all()
                await yard.sql("SELECT pg_terminate_backend(:pid, 5000)", pid=backend)
            return outcomes

    asker = Unlucky()
    ((job, fence),) = await yard.deliver(Ask(line="x"))
    await yard.run(asker, [(job, fence)])
    assert (len(asker.calls), asker.settled) == (1, [1, 1])
    assert await yard.notes() == ["x"]
    assert (await yard.job(job)).attempts == 0


async def test_while_postgres_stays_away_answers_are_given_up_and_the_claim_remains(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.2)

    class Away(Asker):
        async def settle(
            self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
        ) -> Sequence[Outcome]:
            await tx.execute(SHUT_DOWN)
            return []

    ((job, fence),) = await yard.deliver(Ask())
    await yard.run(Away(), [(job, fence)])
    claimed = await yard.job(job)
    assert (claimed.state, claimed.attempts) == (JobState.RUNNING, 0)
