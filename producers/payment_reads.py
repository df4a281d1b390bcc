"""Reads payments as they are shown."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.payments.models import Payment
from commerce.payments.rules import PaymentState
from commerce.repository import SqlRepository
from goodsyard.database import Sessions
from goodsyard.jobs import first_dead
from producers import order_shapes, payment_shapes
from producers.order_shapes import Document
from producers.problems import not_found

_MOST = 200  # attempts to pay one order


async def read_payment(tx: AsyncSession, tenant: int, payment_id: UUID) -> Document:
    """Return a payment of the tenant.

    Raises:
        ProblemError: 404, there is none.
    """
    row = await SqlRepository(tx, Payment, tenant, Payment.id).get(payment_id)
    if row is None:
        raise not_found(f"payment {payment_id}")
    return payment_shapes.payment(row)


async def payments_of_order(tx: AsyncSession, tenant: int, order_id: UUID) -> Document:
    """Return the payments of an order; there are few."""
    repository = SqlRepository(tx, Payment, tenant, Payment.id)
    rows = await repository.page(Payment.order_id == order_id, limit=_MOST)
    return {"data": [payment_shapes.payment(row) for row in rows], "next_cursor": None}


async def look_at_payment(
    sessions: Sessions, tenant: int, payment_id: UUID
) -> tuple[Document, bool]:
    """Return the payment as it is now, and whether waiting on is of no use.

    Raises:
        ProblemError: 404, there is none.
    """
    async with sessions.begin() as tx:
        document = await read_payment(tx, tenant, payment_id)
        if document["status"] is not PaymentState.PENDING:
            return document, True
        dead = await first_dead(tx, tenant, [payment_id])
    if dead is None:
        return document, False
    return document | {"blocked_by": order_shapes.blocked_by(dead)}, True
