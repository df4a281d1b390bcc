"""A chunk of orders ends in the same rows as the same orders one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any  # rows of whatever is selected

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commerce.orders import rows as order_rows
from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line
from goodsyard.claims import Delivery
from goodsyard.database import Sessions
from goodsyard.flow import DatabaseHandler
from goodsyard.submit import Staged, stage
from tasks import orders
from tasks.contracts import ProcessOrder
from tests.yard import Yard, open_yard

PROCESS = DatabaseHandler(ProcessOrder, orders.process)

lines = st.builds(
    Line, st.sampled_from(["A", "B", "C"]), st.integers(1, 3), st.sampled_from([0, 0, 5, 700])
)
carts = st.lists(lines, min_size=1, max_size=3)
requests = st.lists(st.tuples(carts, st.booleans()), min_size=1, max_size=6)
"""Orders, and whether each is called off before it is processed."""
shelves = st.dictionaries(st.sampled_from(["A", "B", "C"]), st.integers(0, 6))

Requests = Sequence[tuple[Sequence[Line], bool]]


@pytest.fixture
async def yard(sessions: Sessions, redis_url: str) -> AsyncIterator[Yard]:
    async with open_yard(sessions, redis_url) as opened:
        yield opened


async def hand_in(yard: Yard, wanted: Requests, shelf: dict[str, int]) -> list[Delivery]:
    """Open a shop with a shelf, hand the orders in, and return the dispatch of each."""
    ((tenant,),) = await yard.sql(
        "INSERT INTO commerce.tenant (name) VALUES (gen_random_uuid()) RETURNING id"
    )
    ((user,),) = await yard.sql(
        "INSERT INTO commerce.users (tenant, email) VALUES (:t, 'a@example.com') RETURNING id",
        t=tenant,
    )
    await yard.sql(
        "INSERT INTO commerce.stock (tenant, sku, on_hand) "
        "SELECT :t, * FROM unnest(CAST(:skus AS text[]), CAST(:pieces AS int[]))",
        t=tenant,
        skus=list(shelf),
        pieces=list(shelf.values()),
    )
    new = [NewOrder(user, "EUR", cart, "pm_card_visa", {}) for cart, _ in wanted]
    async with yard.sessions.begin() as tx:
        await order_rows.insert(tx, tenant, new)
        await stage(tx, [Staged(tenant, ProcessOrder(order_id=order.id)) for order in new])
        for order, (_, called_off) in zip(new, wanted, strict=True):
            if called_off:
                await order_rows.request_cancel(tx, order.id)
    return sorted(await yard.dispatch(ProcessOrder.kind))


async def books(yard: Yard, deliveries: Sequence[Delivery]) -> dict[str, list[Any]]:
    """Return all rows that came of the orders, with numbers in place of ids and names."""
    ((tenant,),) = await yard.sql(
        "SELECT tenant FROM goodsyard.job_done WHERE id = :id", id=deliveries[0][0]
    )
    queries = {
        "orders": "SELECT status::text, reason, total FROM commerce.orders o WHERE tenant = :t",
        "payments": """
            SELECT count(*) FILTER (WHERE n.id <= o.id), p.amount, p.currency, p.state::text
              FROM commerce.payment p JOIN commerce.orders o ON o.id = p.order_id
              JOIN commerce.orders n ON n.tenant = o.tenant
             WHERE p.tenant = :t GROUP BY o.id, p.id""",
        "jobs": """
            SELECT j.kind, j.state::text, j.payload ->> 'amount', j.payload ->> 'email',
                   j.payload -> 'data' ->> 'total'
              FROM goodsyard.job j WHERE tenant = :t""",
        "done": "SELECT kind, state::text, result ->> 'status' FROM goodsyard.job_done o "
        "WHERE tenant = :t",
        "stock": "SELECT sku, on_hand, reserved FROM commerce.stock WHERE tenant = :t",
    }
    ordered = {"orders": " ORDER BY id", "done": " ORDER BY id"}
    found = {
        name: [tuple(row) for row in await yard.sql(query + ordered.get(name, ""), t=tenant)]
        for name, query in queries.items()
    }
    return {
        name: rows if name in ordered else sorted(rows, key=repr) for name, rows in found.items()
    }


@settings(
    max_examples=40,
    deadline=None,
    # The fixture is a database; each example moves into it with two tenants of its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(wanted=requests, shelf=shelves)
async def test_a_chunk_ends_as_its_orders_would_one_by_one(
    yard: Yard, wanted: Requests, shelf: dict[str, int]
) -> None:
    together = await hand_in(yard, wanted, shelf)
    alone = await hand_in(yard, wanted, shelf)
    await yard.run(PROCESS, together)
    for delivery in alone:
        await yard.run(PROCESS, [delivery])
    assert await books(yard, together) == await books(yard, alone)
