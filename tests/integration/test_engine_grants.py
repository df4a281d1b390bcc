"""What a rate lets go starts soon or not at all; keys, prices and penalties of rates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID

import pytest

from goodsyard import limited, limits
from goodsyard.claims import Delivery
from goodsyard.contracts import Contract, Policy, Rate
from goodsyard.flow import DatabaseHandler
from goodsyard.job import Job
from goodsyard.outcomes import Outcome, Retry
from goodsyard.submit import Staged, stage
from tests.yard import TENANT, Ask, Asker, Note, Yard, note_all

BURST = 10


class PerTenant(Note):
    """Each tenant has the rate for itself."""

    kind: ClassVar[str] = "test.per_tenant"
    policy: ClassVar[Policy] = Policy(
        queue="orders", limit=Rate("60/hour", burst=BURST, key=lambda job: job.tenant)
    )


class Priced(Note):
    """Costs as much as its line says."""

    kind: ClassVar[str] = "test.priced"
    policy: ClassVar[Policy] = Policy(
        queue="orders",
        limit=Rate("60/hour", burst=BURST, cost=lambda job: float(job.payload.line)),
    )


class Asked(Ask):
    """Asks somebody who wants to be asked seldom, and listens to one at a time."""

    kind: ClassVar[str] = "test.asked_seldom"
    policy: ClassVar[Policy] = Policy(
        queue="payments", limit=Rate("60/hour", burst=BURST), abreast=1
    )


class SeldomAsker(Asker):
    """Asks."""

    contract = Asked


PER_TENANT = DatabaseHandler(PerTenant, note_all)


@pytest.fixture(autouse=True)
async def in_force(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        await limits.declare(tx, [PerTenant, Priced, Asked])


async def wait(yard: Yard, *contracts: Contract, tenant: int = TENANT) -> list[UUID]:
    staged = [Staged(tenant, contract) for contract in contracts]
    async with yard.sessions.begin() as tx:
        await stage(tx, staged)
    return [job.id for job in staged]


async def go(yard: Yard, contract: type[Contract], most: int = 100) -> list[Delivery]:
    async with yard.sessions.begin() as tx:
        found = await limited.dispatch(tx, contract, most)
    assert found is not None
    return [job.delivery for job in found.jobs]


async def held_for(yard: Yard, contract: type[Contract]) -> float | None:
    async with yard.sessions.begin() as tx:
        found = await limited.dispatch(tx, contract, 100)
    return found and found.held_for


async def turn_back(yard: Yard, seconds: float) -> None:
    await yard.sql(
        "UPDATE goodsyard.limit_bucket SET ts = ts - make_interval(secs => :s),"
        " penalised_until = penalised_until - make_interval(secs => :s)",
        s=seconds,
    )


async def lapse(yard: Yard, seconds: float = limited.LAPSE_SECONDS) -> None:
    """Let so much time have passed since the dispatch."""
    await yard.sql(
        "UPDATE goodsyard.job SET start_by = start_by - make_interval(secs => :s)", s=seconds
    )


# Lapsing


async def untouched(yard: Yard, jobs: Sequence[UUID]) -> bool:
    """Whether jobs wait as if they had never been sent, but for their fence."""
    rows = await yard.sql(
        "SELECT state = 'waiting' AND attempts = 0 AND lost = 0 AND started_at IS NULL"
        " AND claimed_by IS NULL AND deadline IS NULL AND run_at = created_at AS so"
        "  FROM goodsyard.job WHERE id = ANY(CAST(:ids AS uuid[]))",
        ids=list(jobs),
    )
    return len(rows) == len(jobs) and all(row.so for row in rows)


async def test_a_database_job_whose_grant_has_lapsed_is_handed_back_unspent(yard: Yard) -> None:
    jobs = await wait(yard, PerTenant(), PerTenant())
    deliveries = await go(yard, PerTenant)
    await lapse(yard)
    await yard.run(PER_TENANT, deliveries)
    assert await yard.notes() == []
    assert await untouched(yard, jobs)


async def test_an_external_job_whose_grant_has_lapsed_is_handed_back_unspent(yard: Yard) -> None:
    jobs = await wait(yard, Asked(), Asked())
    deliveries = await go(yard, Asked)
    await lapse(yard)
    asker = SeldomAsker()
    await yard.run(asker, deliveries)
    assert asker.calls == []
    assert await untouched(yard, jobs)


async def test_what_was_handed_back_needs_another_grant_and_then_runs(yard: Yard) -> None:
    await wait(yard, *(PerTenant() for _ in range(BURST)))
    deliveries = await go(yard, PerTenant)
    await lapse(yard)
    await yard.run(PER_TENANT, deliveries)
    assert await go(yard, PerTenant) == [], "the tokens are spent"
    await turn_back(yard, 3_600)
    await yard.run(PER_TENANT, await go(yard, PerTenant))
    assert len(await yard.notes()) == BURST


async def test_a_call_whose_grant_lapses_while_it_waits_for_its_turn_is_not_made(
    yard: Yard,
) -> None:
    class Slow(SeldomAsker):
        async def call(self, job: Job[Ask]) -> str:
            await asyncio.sleep(0.5)
            return await super().call(job)

    jobs = await wait(yard, Asked(), Asked())
    deliveries = await go(yard, Asked)
    await lapse(yard, limited.LAPSE_SECONDS - 0.4)
    asker = Slow()
    await yard.run(asker, deliveries)
    assert asker.calls == [jobs[0]]
    assert await yard.states(jobs) == ["succeeded", "waiting"]
    assert (await yard.job(jobs[1])).attempts == 0


async def test_what_no_rate_holds_back_has_no_grant_to_lapse(yard: Yard) -> None:
    await wait(yard, PerTenant())
    await go(yard, PerTenant)
    async with yard.sessions.begin() as tx:
        await limits.set_limit(tx, PerTenant.kind, None)
    await yard.sql("UPDATE goodsyard.job SET state = 'waiting'")
    deliveries = await yard.dispatch(PerTenant.kind)
    await lapse(yard, 3_600)
    await yard.run(PER_TENANT, deliveries)
    assert len(await yard.notes()) == 1


# Keys


async def test_each_key_has_the_rate_for_itself(yard: Yard) -> None:
    for tenant in (1, 2, 3):
        await wait(yard, *(PerTenant() for _ in range(20)), tenant=tenant)
    assert len(await go(yard, PerTenant)) == 3 * BURST
    assert await go(yard, PerTenant) == []
    await turn_back(yard, 60)
    assert len(await go(yard, PerTenant)) == 3


async def test_a_spent_key_with_a_long_line_holds_no_other_back(yard: Yard) -> None:
    await wait(yard, *(PerTenant() for _ in range(2_000)))
    await go(yard, PerTenant)
    (job,) = await wait(yard, PerTenant(), tenant=2)
    assert [one for one, _ in await go(yard, PerTenant)] == [job]


async def test_a_full_bucket_is_forgotten_and_a_spent_one_is_not(yard: Yard) -> None:
    await wait(yard, PerTenant(), tenant=1)
    await wait(yard, *(PerTenant() for _ in range(BURST)), tenant=2)
    await go(yard, PerTenant)
    await turn_back(yard, 120)
    async with yard.sessions.begin() as tx:
        await limits.forget_full(tx)
    assert [row.key for row in await yard.sql("SELECT key FROM goodsyard.limit_bucket")] == ["2"]


async def test_a_limit_that_waits_says_for_how_long(yard: Yard) -> None:
    await wait(yard, *(PerTenant() for _ in range(20)))
    await go(yard, PerTenant)
    await turn_back(yard, 20)
    wait_seconds = await held_for(yard, PerTenant)
    assert wait_seconds is not None
    assert 30 < wait_seconds <= 40


# Prices


async def test_jobs_are_paid_for_by_their_price(yard: Yard) -> None:
    await wait(yard, *(Priced(line="4") for _ in range(5)))
    assert len(await go(yard, Priced)) == 2
    await turn_back(yard, 60)
    assert await go(yard, Priced) == [], "3 of the 4 that the next one costs"
    await turn_back(yard, 60)
    assert len(await go(yard, Priced)) == 1


async def test_what_costs_more_than_a_burst_starts_with_a_whole_one_and_is_paid_off(
    yard: Yard,
) -> None:
    await wait(yard, Priced(line="25"), Priced(line="1"))
    assert len(await go(yard, Priced)) == 1
    await turn_back(yard, 15 * 60)
    assert await go(yard, Priced) == [], "the debt is paid, and no token is there"
    await turn_back(yard, 60)
    assert len(await go(yard, Priced)) == 1


async def test_a_dear_job_is_not_overtaken_for_ever_by_cheap_ones(yard: Yard) -> None:
    (dear,) = await wait(yard, Priced(line=str(BURST)))
    await wait(yard, *(Priced(line="1") for _ in range(5)))
    await yard.sql("INSERT INTO goodsyard.limit_bucket (name, key, tokens)"
                   " VALUES (:kind, '', 5)", kind=Priced.kind)  # fmt: skip
    assert await go(yard, Priced) == []
    await turn_back(yard, 300)
    assert [job for job, _ in await go(yard, Priced)] == [dear]


# Penalties


async def test_nothing_starts_while_a_kind_is_penalised(yard: Yard) -> None:
    await wait(yard, Asked())
    async with yard.sessions.begin() as tx:
        await limits.penalise(tx, Asked.kind, 60)
        await limits.penalise(tx, Asked.kind, 1)  # shortens nothing
    assert await go(yard, Asked) == []
    wait_seconds = await held_for(yard, Asked)
    assert wait_seconds is not None
    assert 50 < wait_seconds <= 60
    await yard.sql("UPDATE goodsyard.job_limit SET penalised_until = now()")
    async with yard.sessions.begin() as tx:
        await limits.pardon(tx)
    assert len(await go(yard, Asked)) == 1


async def test_a_penalty_of_a_key_is_that_keys_alone(yard: Yard) -> None:
    for tenant in (1, 2):
        await wait(yard, PerTenant(), tenant=tenant)
    async with yard.sessions.begin() as tx:
        await limits.penalise(tx, PerTenant.kind, 60, key="1")
    (went,) = await go(yard, PerTenant)
    assert [row.tenant for row in await yard.sql(
        "SELECT tenant FROM goodsyard.job WHERE id = :id", id=went[0])] == [2]  # fmt: skip
    await turn_back(yard, 60)
    assert len(await go(yard, PerTenant)) == 1


async def test_a_kind_without_a_limit_is_penalised_as_well(yard: Yard) -> None:
    await wait(yard, Note())
    async with yard.sessions.begin() as tx:
        await limits.penalise(tx, Note.kind, 60, key="whose")
    assert await go(yard, Note) == []
    async with yard.sessions.begin() as tx:
        await limits.set_penalty(tx, Note.kind, 0)
        assert await limited.dispatch(tx, Note, 1) is None


@pytest.mark.parametrize(("after", "seconds"), [(30.0, 30), (None, 1)])
async def test_a_provider_that_is_asked_too_often_is_left_alone(
    yard: Yard, after: float | None, seconds: float
) -> None:
    class Refused(SeldomAsker):
        async def settle(self, tx: object, answered: Sequence[object]) -> Sequence[Outcome]:
            return [Retry("429", after, busy=True) for _ in answered]

    await wait(yard, Asked(), Asked())
    (first, _) = await go(yard, Asked)
    await yard.run(Refused(), [first])
    ((left,),) = await yard.sql(
        "SELECT extract(epoch FROM penalised_until - now()) FROM goodsyard.job_limit"
        " WHERE name = :kind",
        kind=Asked.kind,
    )
    assert seconds - 5 < left <= seconds
