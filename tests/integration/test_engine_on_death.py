"""Who has to know that a job is dead is told once, in the commit of its death, however it died."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import claims, sweeper
from goodsyard.deaths import Death
from goodsyard.execution import Executor
from goodsyard.flow import DatabaseHandler, Flow
from goodsyard.job import Job
from goodsyard.outcomes import Dead, Done, Outcome, Refused, Retry
from tests.yard import TENANT, Ask, Note, Yard, write


async def note_deaths(tx: AsyncSession, deaths: Sequence[Death]) -> None:
    """Write a line a death."""
    await write(tx, [(death.id, f"{death.kind} {death.reason}") for death in deaths])


async def run(yard: Yard, outcome: Outcome | Exception, *notes: Note, attempts: int = 3) -> None:
    """Deliver jobs that all end in ``outcome``, those of a chunk that raises one by one."""

    async def end(jobs: Sequence[Job[Note]], _: AsyncSession) -> Sequence[Outcome]:
        if isinstance(outcome, Exception):
            raise outcome
        return [outcome] * len(jobs)

    flow = Flow([Note], [DatabaseHandler(Note, end)], note_deaths)
    deliveries = await yard.deliver(*notes)
    await yard.sql("UPDATE goodsyard.job SET attempts = :n", n=attempts - 1)
    await Executor(flow, yard.sessions, yard.bell, uuid4()).run(Note.kind, deliveries)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Retry("no"), "attempts"),
        (ValueError("broken"), "attempts"),
        (Refused("never"), "refused"),
        (Dead("uncertain", "who knows"), "uncertain"),
    ],
)
async def test_a_job_that_a_worker_gives_up_is_told_of(
    yard: Yard, outcome: Outcome | Exception, reason: str
) -> None:
    await run(yard, outcome, Note(), Note())
    assert await yard.notes() == [f"test.note {reason}"] * 2


@pytest.mark.parametrize("outcome", [Done(), Retry("no")])
async def test_a_job_that_lives_on_is_not_told_of(yard: Yard, outcome: Outcome) -> None:
    await run(yard, outcome, Note(), attempts=1)
    assert await yard.notes() == []


async def sweep(yard: Yard) -> None:
    await yard.sql("UPDATE goodsyard.job SET deadline = now()")
    async with yard.sessions.begin() as tx:
        await sweeper.return_overdue(tx, [Note, Ask], {}, note_deaths)


async def test_a_job_that_lost_its_last_worker_is_told_of(yard: Yard) -> None:
    await yard.deliver(Note(), Note())
    await sweep(yard)
    assert await yard.notes() == []
    await yard.dispatch()
    await yard.sql(
        "UPDATE goodsyard.job SET lost = :n WHERE id = (SELECT id FROM goodsyard.job LIMIT 1)",
        n=sweeper.CRASH_BUDGET - 1,
    )
    await sweep(yard)
    assert await yard.notes() == ["test.note lost"]


async def test_a_call_that_nothing_can_tell_is_told_of(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ask, "policy", type(Ask.policy)(queue="payments", repeatable=False))
    deliveries = await yard.deliver(Ask())
    async with yard.sessions.begin() as tx:
        await claims.lease(tx, Ask.kind, deliveries, worker=uuid4(), seconds=60)
    await sweep(yard)
    assert await yard.notes() == ["test.ask uncertain"]


async def test_a_death_that_can_not_be_told_of_has_not_happened(yard: Yard) -> None:
    async def fail(tx: AsyncSession, deaths: Sequence[Death]) -> None:
        await note_deaths(tx, deaths)
        raise RuntimeError

    (delivery,) = await yard.deliver(Note())
    await yard.sql("UPDATE goodsyard.job SET lost = :n, deadline = now()",
                   n=sweeper.CRASH_BUDGET - 1)  # fmt: skip
    with pytest.raises(RuntimeError):
        async with yard.sessions.begin() as tx:
            await sweeper.return_overdue(tx, [Note], {}, fail)
    assert await yard.states([delivery[0]]) == ["dispatched"]
    assert await yard.notes() == []


async def test_two_sweepers_tell_of_a_death_once(yard: Yard) -> None:
    await yard.deliver(*[Note()] * 20)
    await yard.sql("UPDATE goodsyard.job SET lost = :n", n=sweeper.CRASH_BUDGET - 1)
    await asyncio.gather(*(sweep(yard) for _ in range(4)))
    assert await yard.notes() == ["test.note lost"] * 20
    ((tenants,),) = await yard.sql(
        "SELECT count(*) FROM public.note n JOIN goodsyard.job j ON j.id = n.job"
        " WHERE j.tenant = :t", t=TENANT)  # fmt: skip
    assert tenants == 20
