"""Of equal requests, however many come at once, one creates anything, and all hear the same."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from goodsyard.maintenance import forget_expired_keys
from goodsyard.request_keys import (
    KeyClaim,
    KeyHolder,
    KeyInFlightError,
    amend,
    claim,
    request_hash,
)
from goodsyard.submit import Staged, stage
from tests.yard import TENANT, Note, Yard

_numbers = count(1)


def wish(key: str, body: str = "a pair of shoes") -> KeyClaim:
    """Return a request that would create something new each time it came through."""
    return KeyClaim(key, request_hash("POST", "/v1/orders", body), {"id": next(_numbers)})


async def ask(yard: Yard, *claims: KeyClaim, tenant: int = TENANT) -> list[KeyHolder]:
    async with yard.sessions.begin() as tx:
        holders = await claim(tx, tenant, claims)
    return [holders[c.key] for c in claims]


async def test_the_first_request_with_a_key_wins_it(yard: Yard) -> None:
    first = wish("k")
    assert await ask(yard, first) == [
        KeyHolder(won=True, same_request=True, resource=first.resource)
    ]


async def test_the_same_request_again_hears_what_the_first_created(yard: Yard) -> None:
    first = wish("k")
    await ask(yard, first)
    (again,) = await ask(yard, wish("k"))
    assert (again.won, again.same_request, again.resource) == (False, True, first.resource)


async def test_another_request_under_a_used_key_is_told_apart(yard: Yard) -> None:
    await ask(yard, wish("k"))
    (other,) = await ask(yard, wish("k", body="a pair of boots"))
    assert (other.won, other.same_request) == (False, False)


async def test_a_key_is_a_tenants_own(yard: Yard) -> None:
    await ask(yard, wish("k"), tenant=1)
    (other,) = await ask(yard, wish("k", body="else"), tenant=2)
    assert other.won


async def test_a_request_that_rolled_back_leaves_its_key_free(yard: Yard) -> None:
    async with yard.sessions() as tx:
        await claim(tx, TENANT, [wish("k")])
        await tx.rollback()
    assert (await ask(yard, wish("k", body="else")))[0].won


async def test_while_the_first_is_in_flight_the_second_is_told_so_soon(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        await claim(tx, TENANT, [wish("k")])
        async with asyncio.timeout(3):
            with pytest.raises(KeyInFlightError):
                await ask(yard, wish("k"))
    (after,) = await ask(yard, wish("k"))
    assert not after.won


async def test_a_second_that_waited_a_moment_hears_the_firsts_answer(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        first = wish("k")
        await claim(tx, TENANT, [first])
        second = asyncio.create_task(ask(yard, wish("k")))
        await asyncio.sleep(0)  # let it begin; whether it waits or comes late, it hears the same
    assert (await second)[0].resource == first.resource


async def test_of_fifty_equal_claims_at_once_one_wins_and_creates(yard: Yard) -> None:
    async def submit() -> KeyHolder:
        async with yard.sessions.begin() as tx:
            holder = (await claim(tx, TENANT, [wish("k")]))["k"]
            if holder.won:
                await stage(tx, [Staged(TENANT, Note())])
            return holder

    async def insist() -> KeyHolder:
        while True:
            try:
                return await submit()
            except KeyInFlightError:
                continue

    holders = await asyncio.gather(*(insist() for _ in range(50)))
    (winner,) = [holder for holder in holders if holder.won]
    assert {holder.resource["id"] for holder in holders} == {winner.resource["id"]}
    assert all(holder.same_request for holder in holders)
    assert len(await yard.dispatch()) == 1


async def test_many_keys_are_claimed_at_once_each_for_itself(yard: Yard) -> None:
    taken = wish("b")
    await ask(yard, taken)
    holders = await ask(yard, wish("c"), wish("b"), wish("a"), wish("b2", body="x"))
    assert [holder.won for holder in holders] == [True, False, True, True]
    assert holders[1].resource == taken.resource


async def test_claims_with_keys_in_common_all_come_through(yard: Yard) -> None:
    async def client(number: int) -> None:
        keys = [f"{(number * 7 + n * 5) % 20:02}" for n in range(10)]  # each in an order of its own
        while True:
            try:
                await ask(yard, *(wish(key) for key in dict.fromkeys(keys)))
            except KeyInFlightError:
                continue
            return

    await asyncio.gather(*(client(number) for number in range(30)))


async def test_a_winner_may_say_that_something_else_answers(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        await claim(tx, TENANT, [wish("k")])
        await amend(tx, TENANT, "k", {"id": "the twin"})
    (again,) = await ask(yard, wish("k"))
    assert again.resource == {"id": "the twin"}


async def test_an_expired_key_is_free_again(yard: Yard) -> None:
    await ask(yard, wish("old"), wish("new"))
    await yard.sql("UPDATE goodsyard.request_key SET expires_at = now() - interval '1 s' "
                   " WHERE key = 'old'")  # fmt: skip
    async with yard.sessions.begin() as tx:
        await forget_expired_keys(tx)
    old, new = await ask(yard, wish("old", body="else"), wish("new"))
    assert (old.won, new.won) == (True, False)
