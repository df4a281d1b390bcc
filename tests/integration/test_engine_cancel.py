"""A job that runs is called off by asking: it ends where it can, or takes effect, and not both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import claims, interventions, sweeper
from goodsyard.claims import Delivery
from goodsyard.contracts import Contract, Policy
from goodsyard.flow import DatabaseHandler
from goodsyard.interventions import Actor, NotNowError
from goodsyard.job import Job, JobState
from goodsyard.jobs import JobView
from goodsyard.outcomes import Cancelled, Dead, Done, Outcome, Refused, Retry, Snooze
from goodsyard.run import JobCancelledError
from tests.askers import PATIENCE, Slow, called
from tests.yard import TENANT, Ask, Asker, AskOnce, Note, Yard, until

ANN = Actor(TENANT, "ann")


class AskInTurn(Ask):
    """Ask somebody who takes one call at a time."""

    kind: ClassVar[str] = "test.ask_in_turn"
    policy: ClassVar[Policy] = Policy(queue="payments", abreast=1)


KINDS: dict[str, type[Contract]] = {one.kind: one for one in (Ask, AskOnce, AskInTurn, Note)}

LONG = 10 * PATIENCE
"""Seconds for what takes one or two: a question a second, on a machine that is busy."""


async def cancel(yard: Yard, job: UUID) -> JobView:
    """Call a job off, as the API does."""
    async with yard.sessions.begin() as tx:
        view = await interventions.cancel_job(tx, ANN, job, contracts=KINDS)
    assert view is not None
    return view


class Heeding(Slow):
    """Looks up from its work again and again, until it is called off or may answer."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[UUID] = []

    async def call(self, job: Job[Ask]) -> str:
        self.calls.append(job.id)
        while not self.may_answer.is_set():
            try:
                job.run.check()
            except JobCancelledError:
                self.heard.append(job.id)
                raise
            await asyncio.sleep(0.01)
        return job.payload.line


async def over(yard: Yard, job: UUID) -> JobView:
    """Return a job once it has ended."""

    async def has_ended() -> bool:
        return (await yard.job(job)).state in {JobState.SUCCEEDED, JobState.CANCELLED}

    await until(has_ended, "the job's end", LONG)
    return await yard.job(job)


async def audited(yard: Yard) -> list[str]:
    return [row.action for row in await yard.sql("SELECT action FROM goodsyard.audit ORDER BY at")]


async def test_a_running_job_that_checks_ends_cancelled_and_its_neighbours_do_not(
    yard: Yard,
) -> None:
    heeding = Heeding()
    deliveries = await yard.deliver(Ask(line="a"), Ask(line="b"))
    (job, _), (other, _) = deliveries
    running = asyncio.create_task(yard.run(heeding, deliveries))
    await until(lambda: called(heeding, 2), "the calls")
    asked = await cancel(yard, job)
    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    ended = await over(yard, job)
    assert (ended.state, ended.error) == (JobState.CANCELLED, "called off while it ran")
    assert (ended.cancel_requested, ended.attempts) == (False, 0)
    assert (await yard.job(other)).state is JobState.RUNNING
    heeding.may_answer.set()
    await running
    assert (await yard.job(other)).state is JobState.SUCCEEDED
    assert heeding.heard == [job]
    assert await yard.notes() == ["b"]
    assert await yard.attempts(job) == []
    assert await audited(yard) == ["job.cancel"]


async def test_a_cancel_that_is_repeated_is_one(yard: Yard) -> None:
    slow = Slow()
    ((job, fence),) = await yard.deliver(Ask())
    running = asyncio.create_task(yard.run(slow, [(job, fence)]))
    await until(lambda: called(slow), "the call")
    for _ in range(2):
        assert (await cancel(yard, job)).cancel_requested
    slow.may_answer.set()
    await running
    assert await audited(yard) == ["job.cancel"]


async def test_a_job_that_never_checks_succeeds_and_done_wins(yard: Yard) -> None:
    slow = Slow()
    ((job, fence),) = await yard.deliver(Ask(line="done"))
    running = asyncio.create_task(yard.run(slow, [(job, fence)]))
    await until(lambda: called(slow), "the call")
    await cancel(yard, job)
    slow.may_answer.set()
    await running
    ended = await yard.job(job)
    assert (ended.state, ended.result) == (JobState.SUCCEEDED, {"answer": "done"})
    with pytest.raises(NotNowError, match="succeeded already"):
        await cancel(yard, job)


class Answers(Slow):
    """Settles with an outcome of the test's."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
    ) -> Sequence[Outcome]:
        return [self.outcome for _ in answered]


SOON = "SELECT now() + interval '1 s' AS soon"


@pytest.mark.parametrize("outcome", ["retry", "snooze", "raises"])
async def test_a_job_that_was_called_off_waits_for_no_other_try(yard: Yard, outcome: str) -> None:
    ((soon,),) = await yard.sql(SOON)
    answers = Answers(Snooze(soon) if outcome == "snooze" else Retry("busy"))
    if outcome == "raises":
        answers = Raises()
    ((job, fence),) = await yard.deliver(Ask(line="a"))
    running = asyncio.create_task(yard.run(answers, [(job, fence)]))
    await until(lambda: called(answers), "the call")
    await cancel(yard, job)
    answers.may_answer.set()
    await running
    ended = await yard.job(job)
    assert ended.state is JobState.CANCELLED
    why = {"retry": "busy", "snooze": "tried again", "raises": "LookupError: gone"}[outcome]
    assert why in (ended.error or "")


class Raises(Answers):
    """Fails in its settlement."""

    def __init__(self) -> None:
        super().__init__(Retry(""))

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
    ) -> Sequence[Outcome]:
        raise LookupError("gone")


@pytest.mark.parametrize("outcome", [Dead("uncertain", "who knows"), Refused("no")])
async def test_what_is_for_a_person_stays_so_and_a_replay_forgets_the_cancel(
    yard: Yard, outcome: Outcome
) -> None:
    answers = Answers(outcome)
    ((job, fence),) = await yard.deliver(Ask())
    running = asyncio.create_task(yard.run(answers, [(job, fence)]))
    await until(lambda: called(answers), "the call")
    await cancel(yard, job)
    answers.may_answer.set()
    await running
    dead = await yard.job(job)
    assert (dead.state, dead.cancel_requested) == (JobState.DEAD, True)
    async with yard.sessions.begin() as tx:
        await interventions.retry_job(tx, ANN, job)
    assert not (await yard.job(job)).cancel_requested
    await yard.run(Asker(), await yard.dispatch(Ask.kind))
    assert (await yard.job(job)).state is JobState.SUCCEEDED


async def lose(yard: Yard, contract: type[Ask]) -> Delivery:
    """Have a worker claim a job and die, after the job was called off."""
    ((job, fence),) = await yard.deliver(contract())
    async with yard.sessions.begin() as tx:
        assert await claims.lease(tx, contract.kind, [(job, fence)], worker=uuid4(), seconds=60)
    assert (await cancel(yard, job)).state is JobState.RUNNING
    await yard.sql("UPDATE goodsyard.job SET deadline = now() - interval '1 s'")
    async with yard.sessions.begin() as tx:
        assert len(await sweeper.return_overdue(tx, [contract], {})) == 1
    return job, fence


async def test_a_job_whose_worker_died_after_the_cancel_is_not_run_again(yard: Yard) -> None:
    asker = Asker()
    job, _ = await lose(yard, Ask)
    assert (await yard.job(job)).state is JobState.WAITING
    await yard.run(asker, await yard.dispatch(Ask.kind))
    assert (asker.calls, await yard.states([job])) == ([], ["cancelled"])


async def test_a_job_that_waits_for_its_next_try_is_called_off_at_once(yard: Yard) -> None:
    job, _ = await lose(yard, Ask)
    assert (await cancel(yard, job)).state is JobState.CANCELLED
    assert await yard.dispatch(Ask.kind) == []


async def test_a_call_that_may_have_happened_is_still_for_a_person(yard: Yard) -> None:
    job, _ = await lose(yard, AskOnce)
    dead = await yard.job(job)
    assert (dead.state, dead.reason) == (JobState.DEAD, "uncertain")


async def test_a_call_that_waits_for_its_turn_is_never_made(yard: Yard) -> None:
    class OneByOne(Heeding):
        contract = AskInTurn

    heeding = OneByOne()
    deliveries = await yard.deliver(AskInTurn(), AskInTurn())
    running = asyncio.create_task(yard.run(heeding, deliveries))
    await until(lambda: called(heeding), "the first call")
    for job, _ in deliveries:  # once the first hears of it, so has the other
        await cancel(yard, job)
    async with asyncio.timeout(LONG):
        await running
    assert heeding.heard == heeding.calls
    assert len(heeding.calls) == 1
    assert await yard.states([job for job, _ in deliveries]) == ["cancelled"] * 2


async def test_a_job_in_a_database_chunk_is_not_waited_for(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note())
    async with yard.sessions.begin() as tx:
        assert await claims.lock_dispatched(tx, Note.kind, [(job, fence)])
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(NotNowError, match="A worker is carrying it out"):
                await cancel(yard, job)


async def test_a_handler_may_say_itself_that_its_job_is_called_off(yard: Yard) -> None:
    async def call_off(chunk: Sequence[Job[Note]], _: AsyncSession) -> Sequence[Outcome]:
        return [Cancelled("nobody wants it") for _ in chunk]

    deliveries = await yard.deliver(*[Note()] * 3)
    await yard.run(DatabaseHandler(Note, call_off), deliveries)
    ended = [await yard.job(job) for job, _ in deliveries]
    assert {(job.state, job.error) for job in ended} == {(JobState.CANCELLED, "nobody wants it")}


async def test_a_step_of_a_workflow_is_not_called_off_alone(yard: Yard) -> None:
    slow = Slow()
    ((job, fence),) = await yard.deliver(Ask())
    await yard.sql("UPDATE goodsyard.job SET workflow = uuidv7()")
    running = asyncio.create_task(yard.run(slow, [(job, fence)]))
    await until(lambda: called(slow), "the call")
    with pytest.raises(NotNowError):
        await cancel(yard, job)
    assert not (await yard.job(job)).cancel_requested
    slow.may_answer.set()
    await running


async def waits_for_a_lock(yard: Yard) -> None:
    """Return when somebody in this database waits for a row."""

    async def is_waiting() -> bool:
        ((count,),) = await yard.sql("""
            SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'""")
        return bool(count)

    await until(is_waiting, "somebody to wait for a lock")


async def test_a_cancel_that_meets_a_claim_waits_for_it_and_asks_the_run(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Ask())
    async with yard.sessions.begin() as tx:
        assert await claims.lease(tx, Ask.kind, [(job, fence)], worker=uuid4(), seconds=60)
        cancelling = asyncio.create_task(cancel(yard, job))
        await waits_for_a_lock(yard)
    view = await cancelling
    assert (view.state, view.cancel_requested) == (JobState.RUNNING, True)


async def test_a_claim_that_meets_a_cancel_gets_nothing(yard: Yard) -> None:
    asker = Asker()
    ((job, fence),) = await yard.deliver(Ask())
    async with yard.sessions.begin() as tx:
        await interventions.cancel_job(tx, ANN, job, contracts=KINDS)
        async with asyncio.timeout(PATIENCE):
            await yard.run(asker, [(job, fence)])
    await yard.run(asker, [(job, fence)])
    assert (asker.calls, await yard.states([job])) == ([], ["cancelled"])


@pytest.mark.parametrize(
    ("outcome", "state"), [(Done(), "succeeded"), (Retry("busy"), "cancelled")]
)
@pytest.mark.parametrize("first", ["the cancel", "the settlement"])
async def test_of_a_cancel_and_a_settlement_that_meet_the_first_is_heeded_by_the_other(
    yard: Yard, outcome: Outcome, state: str, first: str
) -> None:
    settling, may_settle = asyncio.Event(), asyncio.Event()

    class Halts(Answers):
        async def settle(
            self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
        ) -> Sequence[Outcome]:
            settling.set()
            await may_settle.wait()
            return await super().settle(tx, answered)

    halts = Halts(outcome)
    ((job, fence),) = await yard.deliver(Ask())
    running = asyncio.create_task(yard.run(halts, [(job, fence)]))
    await until(lambda: called(halts), "the call")
    if first == "the cancel":
        async with yard.sessions.begin() as tx:
            await interventions.cancel_job(tx, ANN, job, contracts=KINDS)
            halts.may_answer.set()
            await waits_for_a_lock(yard)
            may_settle.set()
        await running
    else:
        halts.may_answer.set()
        await settling.wait()
        cancelling = asyncio.create_task(cancel(yard, job))
        await waits_for_a_lock(yard)
        may_settle.set()
        await running
        if state == "succeeded":
            with pytest.raises(NotNowError, match="succeeded already"):
                await cancelling
        else:
            assert (await cancelling).state is JobState.CANCELLED
    assert await yard.states([job]) == [state]


async def test_whenever_a_cancel_comes_a_job_takes_effect_or_is_cancelled(yard: Yard) -> None:
    class Checks(Asker):
        async def call(self, job: Job[Ask]) -> str:
            for _ in range(int(job.payload.line) % 5):
                await asyncio.sleep(0)
                job.run.check()
            return await super().call(job)

    async def try_to_cancel(job: UUID, after: float) -> None:
        await asyncio.sleep(after)  # before, during or after the run of its chunk
        with suppress(NotNowError):
            await cancel(yard, job)

    checks = Checks()
    deliveries = await yard.deliver(*(Ask(line=f"{number:03}") for number in range(100)))
    lines = {job: f"{number:03}" for number, (job, _) in enumerate(deliveries)}
    executor = yard.executor(checks)
    async with asyncio.TaskGroup() as group:
        for number, job in enumerate(lines):
            group.create_task(try_to_cancel(job, number % 17 * 0.015))
        for first in range(0, 100, 10):
            await executor.run(Ask.kind, deliveries[first : first + 10])
            await asyncio.sleep(0.02)
    await executor.drain()
    states = dict(zip(lines, await yard.states(list(lines)), strict=True))
    assert set(states.values()) == {"succeeded", "cancelled"}
    done = sorted(lines[job] for job, state in states.items() if state == "succeeded")
    assert await yard.notes() == done
