"""Reads orders as they are shown, in a number of queries that doesn't grow with theirs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders.models import Order
from commerce.orders.rows import final_version, lines_of, of_tenant
from commerce.orders.rules import FINAL, OrderStatus, listed_as
from commerce.payments.rows import live_payment_of
from commerce.repository import SqlRepository
from goodsyard.cache import CacheService
from goodsyard.database import Sessions
from goodsyard.job import JobState
from goodsyard.jobs import first_dead, states_of
from producers import order_shapes
from producers.answers import dumps
from producers.order_shapes import Document
from producers.pagination import PageQuery, page
from producers.waiting import Watch

CACHED_SECONDS = 300
"""How long a version of a final order is worth Redis's memory: it is read soon or hardly ever."""


class OrderQuery(PageQuery):
    """Which orders are asked for."""

    user_id: UUID | None = None
    status: OrderStatus | None = None


async def read_orders(tx: AsyncSession, tenant: int, ids: Collection[UUID]) -> dict[UUID, Document]:
    """Return those of the orders that are the tenant's."""
    found = await of_tenant(tx, tenant, list(ids))
    lines = await lines_of(tx, list(found))
    return {key: order_shapes.order(order, lines[key]) for key, order in found.items()}


async def page_of_orders(tx: AsyncSession, tenant: int, query: OrderQuery) -> Document:
    """Return a page of the tenant's orders."""
    where = []
    if query.user_id is not None:
        where.append(Order.user_id == query.user_id)
    if query.status is not None:
        where += [Order.listed_as == listed_as(query.status), Order.status == query.status]
    repository = SqlRepository(tx, Order, tenant, Order.id)
    found = await repository.page(*where, before=query.before, limit=query.limit + 1)
    orders, next_cursor = query.cut(found)
    lines = await lines_of(tx, [order.id for order in orders])
    return page([order_shapes.order(order, lines[order.id]) for order in orders], next_cursor)


async def read_whole_order(
    sessions: Sessions, cache: CacheService, tenant: int, order_id: UUID
) -> Document | None:
    """Return the order as it is now, a final one from the cache if that has this version of it.

    Workers change orders, final ones too, and a cache that relied on being told would lie one day.
    So Postgres says which version there is, at the cost of one row, and the cache has the rest.
    """
    async with sessions.begin() as tx:
        version = await final_version(tx, tenant, order_id)
        if version is None:
            document, _ = await _as_it_is(tx, tenant, order_id)
            return document

    async def compute() -> str | None:
        async with sessions.begin() as tx:  # if it has changed since, nobody asks for the old one
            document, _ = await _as_it_is(tx, tenant, order_id)
        return None if document is None else dumps(document).decode()

    kept = await cache.read(f"order:{tenant}:{order_id}:{version}", CACHED_SECONDS, compute)
    return None if kept is None else orjson.loads(kept)


async def look_at_order(
    sessions: Sessions, tenant: int, order_id: UUID, watch: Watch
) -> tuple[Document | None, bool]:
    """Return the order as it is now, if there is one, and whether waiting on is of no use.

    Args:
        sessions: a transaction is open while we look, and none while we wait.
        tenant: whose order.
        order_id: the order, which is being watched.
        watch: learns of the order's payment too, whose job is the one that ends most orders.
    """
    while True:
        async with sessions.begin() as tx:
            document, subjects = await _as_it_is(tx, tenant, order_id)
        if not subjects:
            return document, True
        if not watch.add(subjects):  # else its news may have come before we watched it
            return document, False


async def _as_it_is(
    tx: AsyncSession, tenant: int, order_id: UUID
) -> tuple[Document | None, Sequence[UUID]]:
    """Return an order, and whose jobs move it on: nobody's if it is final, blocked or not there."""
    order = await SqlRepository(tx, Order, tenant, Order.id).get(order_id)
    if order is None:
        return None, ()
    document = order_shapes.order(order, (await lines_of(tx, [order_id]))[order_id])
    if order.status in FINAL:
        return document, ()
    payment = await live_payment_of(tx, order_id)
    subjects = [order_id] if payment is None else [order_id, payment]
    dead = await first_dead(tx, tenant, subjects)
    if dead is not None:
        return document | {"blocked_by": order_shapes.blocked_by(dead)}, ()
    return document, subjects


async def job_reference(tx: AsyncSession, tenant: int, job_id: UUID) -> Document:
    """Return a job as an order points to it."""
    # One that is nowhere was finished so long ago that its partition was dropped.
    state = (await states_of(tx, tenant, [job_id])).get(job_id, JobState.SUCCEEDED)
    return order_shapes.job_ref(job_id, state)
