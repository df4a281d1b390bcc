"""Orders that come one by one at once share a commit, and nobody is worse off for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, text

from producers import problems
from producers.acceptance import Wish
from producers.idempotency import RequestKey
from producers.intake import MOST_TOGETHER
from producers.order_shapes import OrderIn
from producers.problems import ProblemError
from producers.submission import PATH, Accepted, Verdict
from tests.integration.conftest import Api, order_for
from tests.integration.test_costs import counted_costs

pytestmark = pytest.mark.in_process("counts what the process does in one transaction")

MANY = 20
PATIENCE = 10.0
"""Seconds that are plenty for a transaction."""


def wish(key: str, body: dict[str, Any]) -> Wish:
    """Return what a caller who sends ``body`` wants; a new order each time."""
    return Wish(RequestKey(key, "POST", PATH, body), OrderIn.model_validate(body).order())


async def ask(api: Api, *wishes: Wish, tenant: int = 1) -> list[Verdict]:
    """Hand orders in at once, each by a caller of its own."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*(api.services.intake.accept(tenant, one) for one in wishes))


async def look(api: Api, query: str) -> int:
    async with api.sessions.begin() as tx:
        seen: int = (await tx.execute(text(query))).scalar_one()
    return seen


async def rename(api: Api, table: str, name: str) -> None:
    async with api.sessions.begin() as tx:
        await tx.execute(text(f"ALTER TABLE commerce.{table} RENAME TO {name}"))


async def orders(api: Api) -> int:
    """Return how many orders there are; each has its job, its lines and its key."""
    whole = """
        SELECT count(*) FROM commerce.orders o
          JOIN goodsyard.job j ON j.subject = o.id
          JOIN goodsyard.request_key k ON k.resource->>'order' = o.id::text
                                      AND k.resource->>'job' = j.id::text
         WHERE EXISTS (SELECT FROM commerce.order_line l WHERE l.order_id = o.id)"""
    there = await look(api, "SELECT count(*) FROM commerce.orders")
    assert await look(api, whole) == there
    return there


async def commits(api: Api) -> int:
    """Return in how many transactions all orders were created."""
    return await look(api, "SELECT count(DISTINCT xmin::text) FROM commerce.orders")


@asynccontextmanager
async def begun(api: Api, *wishes: Wish) -> AsyncIterator[asyncio.Task[list[Verdict]]]:
    """Hand orders in, and go on while Postgres is at it."""
    sent, engine = asyncio.Event(), api.services.sessions.kw["bind"].sync_engine

    def on_statement(*_: object) -> None:
        sent.set()

    event.listen(engine, "before_cursor_execute", on_statement)
    asking = asyncio.create_task(ask(api, *wishes))
    async with asyncio.timeout(PATIENCE):
        await sent.wait()
    event.remove(engine, "before_cursor_execute", on_statement)
    yield asking


async def queued(api: Api, late: Wish) -> asyncio.Task[Verdict]:
    """Hand an order in while others are under way, and go on when it waits behind them."""
    asking = asyncio.create_task(api.services.intake.accept(1, late))
    await asyncio.sleep(0)
    return asking


@pytest.fixture
async def user(api: Api) -> str:
    return await api.user()


async def test_a_lone_submit_costs_one_statement_and_a_replay_five(api: Api, user: str) -> None:
    await api.http.get("/v1/orders")  # the key is looked up at its first use
    with counted_costs() as costs:
        assert (await api.submit(order_for(user), "once")).status_code == 202
    assert len(costs.statements) == 1
    with counted_costs() as costs:
        assert (await api.submit(order_for(user), "once")).status_code == 202
    assert len(costs.statements) == 5


@pytest.mark.parametrize("size", [1, 100])
async def test_a_bulk_costs_one_statement(api: Api, user: str, size: int) -> None:
    bulk = [order_for(user, idempotency_key=f"k{number}") for number in range(size)]
    await api.http.get("/v1/orders")
    with counted_costs() as costs:
        answer = await api.http.post("/v1/orders/bulk", json={"orders": bulk})
    assert {result["status"] for result in answer.json()["results"]} == {202}
    assert len(costs.statements) == 1
    assert (await orders(api), await commits(api)) == (size, 1)


async def test_orders_that_come_at_once_share_a_commit(api: Api, user: str) -> None:
    wishes = [wish(f"k{number}", order_for(user)) for number in range(MANY)]
    with counted_costs() as costs:
        verdicts = await ask(api, *wishes)
    assert len(costs.statements) == 1
    assert (await orders(api), await commits(api)) == (MANY, 1)
    told = [str(verdict.order["id"]) for verdict in verdicts if isinstance(verdict, Accepted)]
    assert told == [str(one.order.id) for one in wishes]  # each caller hears of its own


async def test_what_comes_during_a_transaction_goes_into_the_next(api: Api, user: str) -> None:
    async with begun(api, wish("first", order_for(user))) as first:
        await ask(api, *(wish(f"k{number}", order_for(user)) for number in range(MANY)))
        await first
    assert (await orders(api), await commits(api)) == (MANY + 1, 2)


async def test_a_transaction_takes_a_bounded_number_of_orders(api: Api, user: str) -> None:
    await ask(api, *(wish(f"k{number}", order_for(user)) for number in range(MOST_TOGETHER + 1)))
    assert (await orders(api), await commits(api)) == (MOST_TOGETHER + 1, 2)


async def test_a_bad_neighbour_harms_nobody(api: Api, user: str) -> None:
    await ask(api, wish("used", order_for(user)), wish("replayed", order_for(user)))
    good = [wish(f"k{number}", order_for(user)) for number in range(MANY)]
    bad = [
        wish("stranger", order_for(str(uuid4()))),
        wish("used", order_for(user, currency="USD")),
        wish("held", order_for(user)),
    ]
    claim = (
        "INSERT INTO goodsyard.request_key (tenant, key, hash, resource)"
        " VALUES (1, 'held', '', '{}')"
    )
    async with api.sessions.begin() as elsewhere:
        await elsewhere.execute(text(claim))
        verdicts = await ask(api, *good[:10], *bad, *good[10:], wish("replayed", order_for(user)))
        await elsewhere.rollback()
    refusals = [verdict.kind for verdict in verdicts if isinstance(verdict, ProblemError)]
    assert refusals == [problems.VALIDATION, problems.KEY_REUSED, problems.IN_FLIGHT]
    accepted = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
    assert [verdict.replayed for verdict in accepted] == [False] * MANY + [True]
    assert await orders(api) == MANY + 2
    (mended,) = await ask(api, wish("stranger", order_for(user)))
    assert isinstance(mended, Accepted)
    assert not mended.replayed  # a refusal uses up no key


async def test_of_equal_orders_at_once_one_is_created_and_the_others_replay_it(
    api: Api, user: str
) -> None:
    equal = [wish("k", order_for(user)) for _ in range(MANY)]
    *verdicts, other = await ask(api, *equal, wish("k", order_for(user, currency="USD")))
    accepted = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
    assert [verdict.replayed for verdict in accepted] == [False] + [True] * (MANY - 1)
    assert len({str(verdict.order["id"]) for verdict in accepted}) == 1
    assert isinstance(other, ProblemError)
    assert other.kind is problems.KEY_REUSED
    assert await orders(api) == 1


async def test_an_order_whose_caller_hangs_up_is_there_once_and_replays(
    api: Api, user: str
) -> None:
    keys = ["alone", "late", "later"]
    async with begun(api, wish("alone", order_for(user))) as alone:
        waiting = [await queued(api, wish(key, order_for(user))) for key in keys[1:]]
        for caller in (alone, waiting[0]):
            caller.cancel()
        await waiting[1]
    verdicts = await ask(api, *(wish(key, order_for(user)) for key in keys))
    assert [isinstance(verdict, Accepted) and verdict.replayed for verdict in verdicts] == [
        True
    ] * 3
    assert await orders(api) == 3


async def test_who_was_taken_in_is_answered_before_the_end(api: Api, user: str) -> None:
    async with begun(api, wish("under way", order_for(user))) as first:
        late = await queued(api, wish("late", order_for(user)))
        await api.services.intake.close()
    assert await orders(api) == 2
    for verdict in [*await first, await late]:
        assert isinstance(verdict, Accepted)


async def test_tenants_share_no_key(api: Api, user: str) -> None:
    other = await api.caller("admin", tenant="elsewhere")
    body = {"email": "a@example.com", "username": "a"}
    theirs = (await api.http.post("/v1/users", json=body, headers=other)).json()["id"]
    tenants = [(1, user), (2, theirs)]
    verdicts = await asyncio.gather(
        *(ask(api, wish("k", order_for(buyer)), tenant=tenant) for tenant, buyer in tenants),
        ask(api, wish("stolen", order_for(user)), tenant=2),
    )
    assert [isinstance(verdict, Accepted) for (verdict,) in verdicts] == [True, True, False]
    assert await orders(api) == 2


async def test_when_postgres_refuses_all_hear_of_it_and_the_next_come_through(
    api: Api, user: str
) -> None:
    await rename(api, "orders", "away")
    answers = await asyncio.gather(*(api.submit(order_for(user), f"k{n}") for n in range(MANY)))
    assert {answer.status_code for answer in answers} == {500}
    await rename(api, "away", "orders")
    for number in range(MANY):
        answer = await api.submit(order_for(user), f"k{number}")
        assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (202, False)
