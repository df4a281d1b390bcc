"""A rate holds for the whole cluster, to the token, however many relays draw on it at once."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import limited, limits
from goodsyard.contracts import Concurrency, Contract, Policy, Rate
from goodsyard.submit import Staged, stage
from tests.yard import TENANT, Note, Yard

NAME = "test.limited"


class Limited(Note):
    """Has a backlog that no test comes to the end of."""

    kind: ClassVar[str] = NAME


@pytest.fixture(autouse=True)
async def backlog(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        await stage(tx, [Staged(TENANT, Limited()) for _ in range(2_000)])


async def set_limit(yard: Yard, rate: str, burst: float | None = None) -> None:
    async with yard.sessions.begin() as tx:
        await limits.set_limit(tx, NAME, Rate(rate, burst))


async def grant(yard: Yard, wanted: int) -> int:
    async with yard.sessions.begin() as tx:
        return await dispatched(tx, wanted)


async def dispatched(tx: AsyncSession, wanted: int) -> int:
    found = await limited.dispatch(tx, Limited, wanted)
    return -1 if found is None else len(found.jobs)


async def turn_back(yard: Yard, seconds: float) -> None:
    """Let the bucket believe that its last grant was so many seconds earlier."""
    await yard.sql(
        "UPDATE goodsyard.limit_bucket SET ts = ts - make_interval(secs => :s)", s=seconds
    )


async def test_a_rate_is_exact_over_concurrent_grants(yard: Yard) -> None:
    await set_limit(yard, "1/day", burst=200)
    granted = await asyncio.gather(*(grant(yard, 7) for _ in range(60)))
    assert sum(granted) == 200
    assert all(0 <= share <= 7 for share in granted)


async def test_a_rate_is_kept_over_time_by_concurrent_callers(yard: Yard) -> None:
    """Nothing is lost and nothing is added, to the token, between two moments."""
    per_second, everything = 1_000, 1_000
    await set_limit(yard, f"{per_second}/second", burst=everything)
    before_empty = time.monotonic()
    await grant(yard, everything)
    empty = time.monotonic()

    async def relay() -> int:
        total = 0
        while time.monotonic() < empty + 0.5:
            total += await grant(yard, 5)
        return total

    shares = await asyncio.gather(*(relay() for _ in range(4)))
    before_last = time.monotonic()
    total = sum(shares) + await grant(yard, everything)
    last = time.monotonic()
    assert per_second * (before_last - empty) - 1 <= total <= per_second * (last - before_empty)


async def test_what_is_wanted_is_the_most_that_is_taken(yard: Yard) -> None:
    await set_limit(yard, "1/day", burst=10)
    assert [await grant(yard, wanted) for wanted in (3, 0, 5, 5, 5)] == [3, 0, 5, 2, 0]


async def test_a_bucket_never_holds_more_than_its_burst(yard: Yard) -> None:
    await set_limit(yard, "10/second", burst=5)
    await grant(yard, 1)
    await turn_back(yard, 3_600)
    assert await grant(yard, 100) == 5


async def test_a_spent_bucket_fills_up_at_its_rate(yard: Yard) -> None:
    await set_limit(yard, "60/hour", burst=10)
    assert await grant(yard, 10) == 10
    await turn_back(yard, 59)
    assert await grant(yard, 10) == 0
    await turn_back(yard, 1)
    assert await grant(yard, 10) == 1
    await turn_back(yard, 180)
    assert await grant(yard, 10) == 3


async def test_a_fraction_of_a_token_is_kept_for_later(yard: Yard) -> None:
    await set_limit(yard, "60/hour", burst=10)
    await grant(yard, 10)
    granted = []
    for _ in range(4):
        await turn_back(yard, 30)
        granted.append(await grant(yard, 10))
    assert granted == [0, 1, 0, 1]


async def test_a_grant_that_is_rolled_back_costs_nothing(yard: Yard) -> None:
    await set_limit(yard, "1/day", burst=10)
    async with yard.sessions() as tx:
        assert await dispatched(tx, 10) == 10
        await tx.rollback()
    assert await grant(yard, 10) == 10


async def test_a_clock_that_goes_back_takes_and_gives_nothing(yard: Yard) -> None:
    await set_limit(yard, "1/day", burst=10)
    await grant(yard, 4)
    await turn_back(yard, -3_600)
    assert await grant(yard, 10) == 6


async def test_without_a_limit_there_is_nothing_to_ask_it(yard: Yard) -> None:
    assert await grant(yard, 500) == -1


async def test_a_limit_changes_live_and_fills_no_bucket(yard: Yard) -> None:
    await set_limit(yard, "1/day", burst=10)
    await grant(yard, 7)
    await set_limit(yard, "1/day", burst=100)
    assert await grant(yard, 100) == 3
    await set_limit(yard, "100/second", burst=100)
    await turn_back(yard, 0.5)
    assert await grant(yard, 100) >= 50


async def test_a_limit_that_is_removed_limits_nothing(yard: Yard) -> None:
    await set_limit(yard, "1/day")
    async with yard.sessions.begin() as tx:
        await limits.set_limit(tx, NAME, None)
        assert await limits.list_limits(tx) == []
    assert await grant(yard, 500) == -1


async def test_the_limit_of_a_policy_is_where_it_starts_and_not_where_it_is_set_back_to(
    yard: Yard,
) -> None:
    class Declared(Note):
        kind: ClassVar[str] = NAME
        policy: ClassVar[Policy] = Policy(
            queue="orders", limit=Rate("50/second", burst=5), concurrency=Concurrency(3)
        )

    assert await declared(yard, Declared, Note) == (NAME, 50, 5, 3)
    await set_limit(yard, "7/second", burst=7)
    assert await declared(yard, Declared, Note) == (NAME, 7, 7, 3)
    async with yard.sessions.begin() as tx:
        await limits.set_limit(tx, NAME, None)
        await limits.set_concurrency(tx, NAME, 2)
    assert await declared(yard, Declared, Note) == (NAME, None, None, 2)


async def declared(yard: Yard, *contracts: type[Contract]) -> tuple[object, ...]:
    async with yard.sessions.begin() as tx:
        await limits.declare(tx, contracts)
        (limit,) = await limits.list_limits(tx)
    return limit.name, limit.per_second, limit.burst, limit.concurrency
