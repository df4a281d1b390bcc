"""Reads orders as they are shown, in a number of queries that doesn't grow with theirs."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders.models import Order
from commerce.orders.rows import lines_of, of_tenant
from commerce.orders.rules import FINAL, OrderStatus
from commerce.payments.rows import live_payment_of
from commerce.repository import SqlRepository
from goodsyard.database import Sessions
from goodsyard.job import JobState
from goodsyard.jobs import first_dead, states_of
from producers import order_shapes
from producers.order_shapes import Document
from producers.pagination import PageQuery, page
from producers.waiting import Watch


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
        where.append(Order.status == query.status)
    repository = SqlRepository(tx, Order, tenant, Order.id)
    found = await repository.page(*where, before=query.before, limit=query.limit + 1)
    orders, next_cursor = query.cut(found)
    lines = await lines_of(tx, [order.id for order in orders])
    return page([order_shapes.order(order, lines[order.id]) for order in orders], next_cursor)


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
            order = await SqlRepository(tx, Order, tenant, Order.id).get(order_id)
            if order is None:
                return None, True
            document = order_shapes.order(order, (await lines_of(tx, [order_id]))[order_id])
            if order.status in FINAL:
                return document, True
            payment = await live_payment_of(tx, order_id)
            subjects = [order_id] if payment is None else [order_id, payment]
            dead = await first_dead(tx, tenant, subjects)
        if dead is not None:
            return document | {"blocked_by": order_shapes.blocked_by(dead)}, True
        if not watch.add(subjects):  # else its news may have come before we watched it
            return document, False


async def job_reference(tx: AsyncSession, tenant: int, job_id: UUID) -> Document:
    """Return a job as an order points to it."""
    # One that is nowhere was finished so long ago that its partition was dropped.
    state = (await states_of(tx, tenant, [job_id])).get(job_id, JobState.SUCCEEDED)
    return order_shapes.job_ref(job_id, state)
