"""A backlog is shared out: no tenant waits behind another's jobs, urgent jobs go first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID

import pytest

from goodsyard import dispatch, lanes, shares
from goodsyard.contracts import Policy, Rate
from goodsyard.dispatch import Batch
from goodsyard.submit import Staged, stage
from tests.yard import Note, Yard

CROWD, OTHER = 1, 2


async def wait(yard: Yard, tenant: int, jobs: int, priority: int = 5) -> list[UUID]:
    """Have so many jobs of a tenant wait."""
    staged = [Staged(tenant, Note(), priority=priority) for _ in range(jobs)]
    async with yard.sessions.begin() as tx:
        await stage(tx, staged)
    return [job.id for job in staged]


async def batch(yard: Yard, most: int, *, urgent: bool = False) -> Batch:
    async with yard.sessions.begin() as tx:
        return await dispatch.dispatch(tx, Note.kind, most, urgent=urgent)


async def tenants_of(yard: Yard, sent: Batch) -> Counter[int]:
    rows = await yard.sql(
        "SELECT tenant FROM goodsyard.job WHERE id = ANY(CAST(:ids AS uuid[]))",
        ids=[job.id for job in sent.jobs],
    )
    return Counter(row.tenant for row in rows)


def ids(sent: Batch) -> list[UUID]:
    return [job.id for job in sent.jobs]


async def test_a_tenants_job_is_in_the_next_batch_however_many_another_has_waiting(
    yard: Yard,
) -> None:
    await wait(yard, CROWD, 3_000)
    (job,) = await wait(yard, OTHER, 1)
    sent = await batch(yard, 100)
    assert job in ids(sent)[:2], "nor does it wait for what the other has in the same batch"
    assert len(sent.jobs) == 100, "what one tenant doesn't need goes to the other"


async def test_tenants_who_wait_get_the_same_each(yard: Yard) -> None:
    for tenant in range(1, 5):
        await wait(yard, tenant, 500 * tenant)
    sent = await tenants_of(yard, await batch(yard, 400))
    assert sum(sent.values()) == 400
    assert all(abs(jobs - 100) <= 1 for jobs in sent.values()), sent


async def test_tenants_who_wait_get_turns_by_their_shares(yard: Yard) -> None:
    await wait(yard, CROWD, 1_000)
    await wait(yard, OTHER, 1_000)
    async with yard.sessions.begin() as tx:
        await shares.set_share(tx, OTHER, 3)
    sent = await tenants_of(yard, await batch(yard, 400))
    assert abs(sent[OTHER] - 300) <= 1
    assert sum(sent.values()) == 400


async def test_where_there_are_more_tenants_than_places_chance_gives_each_its_turn(
    yard: Yard,
) -> None:
    for tenant in range(1, 21):
        await wait(yard, tenant, 10)
    served: Counter[int] = Counter()
    for _ in range(30):
        served += await tenants_of(yard, await batch(yard, 5))
    assert len(served) >= 19, "one in 300 times one is missing, hardly ever two"


async def test_lanes_beyond_one_look_are_in_the_next(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MOST_LANES", 3)
    jobs = [job for tenant in range(1, 9) for job in await wait(yard, tenant, 1)]
    seen: list[UUID] = []
    behind, looks = lanes.BEGINNING, 0
    while len(seen) < len(jobs) and looks < len(jobs):
        async with yard.sessions.begin() as tx:
            sent = await dispatch.dispatch(tx, Note.kind, 100, behind=behind)
        seen += ids(sent)
        behind, looks = sent.end or lanes.BEGINNING, looks + 1
    assert sorted(seen) == sorted(jobs)
    assert looks == 3


async def test_a_tenants_jobs_go_by_priority_and_then_by_age(yard: Yard) -> None:
    waiting = {priority: await wait(yard, CROWD, 2, priority) for priority in (9, 5, 0, 1)}
    assert ids(await batch(yard, 100)) == [
        job for priority in sorted(waiting) for job in waiting[priority]
    ]


async def test_tenants_take_turns_within_a_batch_and_urgent_jobs_come_first(yard: Yard) -> None:
    crowd = await wait(yard, CROWD, 6)
    other = await wait(yard, OTHER, 2)
    (urgent,) = await wait(yard, OTHER, 1, priority=0)
    sent = ids(await batch(yard, 9))
    assert sent[0] == urgent
    assert [job for job in sent if job in crowd] == crowd
    assert [job for job in sent if job in other] == other
    places = [sent.index(job) for job in other]
    assert places[0] < places[1] < 8, "spread among the others, not behind them"


async def test_only_urgent_jobs_overtake(yard: Yard) -> None:
    await wait(yard, CROWD, 100)
    urgent = await wait(yard, CROWD, 2, priority=0) + await wait(yard, OTHER, 1, priority=0)
    assert sorted(ids(await batch(yard, 25, urgent=True))) == sorted(urgent)
    assert (await batch(yard, 25, urgent=True)).jobs == []


async def test_two_relays_share_the_lanes_without_a_job_twice(yard: Yard) -> None:
    for tenant in range(1, 6):
        await wait(yard, tenant, 40)
    async with yard.sessions.begin() as one, yard.sessions.begin() as other:
        first = await dispatch.dispatch(one, Note.kind, 100)
        second = await dispatch.dispatch(other, Note.kind, 100)
    assert len({*ids(first), *ids(second)}) == len(first.jobs) + len(second.jobs) == 200


class Keyed(Note):
    """Is counted by what it is about."""

    kind: ClassVar[str] = "test.keyed"
    policy: ClassVar[Policy] = Policy(
        queue="orders", limit=Rate("1/day", key=lambda job: job.payload.line)
    )


async def test_lanes_of_one_tenant_share_its_part(yard: Yard) -> None:
    def of(tenant: int, keys: Sequence[str]) -> list[Staged]:
        return [Staged(tenant, Keyed(line=key)) for key in keys for _ in range(100)]

    async with yard.sessions.begin() as tx:
        await stage(tx, of(CROWD, [str(key) for key in range(9)]) + of(OTHER, ["x"]))
        sent = await dispatch.dispatch(tx, Keyed.kind, 100)
    shared = await tenants_of(yard, sent)
    assert abs(shared[OTHER] - 50) <= 5, shared
