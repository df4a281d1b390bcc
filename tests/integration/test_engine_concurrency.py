"""No more jobs are under way than may be; whatever becomes of one, its place is free again."""

from __future__ import annotations

import asyncio
from typing import ClassVar
from uuid import UUID, uuid4

import pytest

from goodsyard import claims, limited, limits, sweeper
from goodsyard.claims import Delivery
from goodsyard.contracts import Concurrency, Contract, Policy
from goodsyard.flow import DatabaseHandler
from goodsyard.limited import LimitedBatch
from goodsyard.submit import Staged, stage
from tests.yard import Ask, Asker, Note, Yard, note_all

MOST = 3


class Few(Note):
    """May be done three at a time."""

    kind: ClassVar[str] = "test.few"
    policy: ClassVar[Policy] = Policy(queue="orders", concurrency=Concurrency(MOST))


class OneEach(Ask):
    """Is asked one at a time of each it is about."""

    kind: ClassVar[str] = "test.one_each"
    policy: ClassVar[Policy] = Policy(
        queue="payments", concurrency=Concurrency(1, key=lambda job: job.payload.line)
    )


class OneEachAsker(Asker):
    """Asks."""

    contract = OneEach


FEW = DatabaseHandler(Few, note_all)


@pytest.fixture(autouse=True)
async def in_force(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        await limits.declare(tx, [Few, OneEach])


async def wait(yard: Yard, *contracts: Contract, tenant: int = 1) -> list[UUID]:
    staged = [Staged(tenant, contract) for contract in contracts]
    async with yard.sessions.begin() as tx:
        await stage(tx, staged)
    return [job.id for job in staged]


async def look(yard: Yard, contract: type[Contract] = Few, most: int = 100) -> LimitedBatch:
    async with yard.sessions.begin() as tx:
        found = await limited.dispatch(tx, contract, most)
    assert found is not None
    return found


async def go(yard: Yard, contract: type[Contract] = Few) -> list[Delivery]:
    return [job.delivery for job in (await look(yard, contract)).jobs]


async def test_so_many_go_and_the_next_when_one_is_done(yard: Yard) -> None:
    await wait(yard, *(Few() for _ in range(5)))
    first = await go(yard)
    assert len(first) == MOST
    assert await go(yard) == []
    await yard.run(FEW, first[:1])
    assert len(await go(yard)) == 1


async def test_of_several_relays_none_lets_one_too_many_go(yard: Yard) -> None:
    await wait(yard, *(Few() for _ in range(50)))
    sent = await asyncio.gather(*(look(yard) for _ in range(8)))
    assert sum(len(one.jobs) for one in sent) == MOST


async def test_who_waits_for_a_place_looks_again_soon(yard: Yard) -> None:
    await wait(yard, *(Few() for _ in range(5)))
    assert (await look(yard)).held_for == 0.0
    assert (await look(yard, most=MOST)).held_for == 0.0


async def test_a_key_has_its_own_place_and_blocks_no_other(yard: Yard) -> None:
    a = await wait(yard, *(OneEach(line="a") for _ in range(300)))
    b = await wait(yard, OneEach(line="b"), tenant=2)
    first = await go(yard, OneEach)
    assert sorted(job for job, _ in first) == sorted([a[0], b[0]])
    await yard.run(OneEachAsker(), first)
    assert [job for job, _ in await go(yard, OneEach)] == [a[1]]


async def test_lanes_of_several_tenants_share_a_keys_place(yard: Yard) -> None:
    for tenant in (1, 2, 3):
        await wait(yard, OneEach(line="a"), tenant=tenant)
    assert len(await go(yard, OneEach)) == 1


async def test_a_failure_frees_the_place(yard: Yard) -> None:
    class Fails(OneEachAsker):
        async def call(self, job: object) -> str:
            raise RuntimeError("no")

    await wait(yard, OneEach(line="a"), OneEach(line="a"))
    await yard.run(Fails(), await go(yard, OneEach))
    assert len(await go(yard, OneEach)) == 1


async def test_a_dead_worker_frees_the_places_of_its_jobs(yard: Yard) -> None:
    await wait(yard, *(OneEach(line="a") for _ in range(2)))
    deliveries = await go(yard, OneEach)
    async with yard.sessions.begin() as tx:  # by a process that never beat
        await claims.lease(tx, OneEach.kind, deliveries, worker=uuid4(), seconds=60)
    assert await go(yard, OneEach) == []
    async with yard.sessions.begin() as tx:
        await sweeper.return_overdue(tx, [OneEach], {})
    assert len(await go(yard, OneEach)) == 1


async def test_a_concurrency_changes_live_and_is_lifted(yard: Yard) -> None:
    await wait(yard, *(Few() for _ in range(50)))
    await go(yard)
    async with yard.sessions.begin() as tx:
        await limits.set_concurrency(tx, Few.kind, 10)
    assert len(await go(yard)) == 10 - MOST
    async with yard.sessions.begin() as tx:
        await limits.set_concurrency(tx, Few.kind, None)
        assert await limited.dispatch(tx, Few, 100) is None
