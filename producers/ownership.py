"""A customer who has signed in sees and changes what is their own: anybody else's isn't there.

Looked at before anything waits for the thing or locks it; who may see the whole tenant's things
pays no query for it.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders.models import Order
from commerce.payments.models import Payment
from commerce.repository import SqlRepository
from producers.authentication import Principal
from producers.problems import not_found
from producers.services import Use


async def _own_order(order_id: UUID, request: Request, use: Use) -> UUID:
    principal: Principal = request.state.principal
    if principal.owner is not None:
        async with use.sessions.begin() as tx:
            await require_own_order(tx, principal, order_id)
    return order_id


async def _own_payment(payment_id: UUID, request: Request, use: Use) -> UUID:
    principal: Principal = request.state.principal
    if principal.owner is not None:
        async with use.sessions.begin() as tx:
            payment = await SqlRepository(tx, Payment, principal.tenant, Payment.id).get(payment_id)
        if payment is None or not principal.owns(payment.user_id):
            raise not_found(f"payment {payment_id}")
    return payment_id


OwnOrder = Annotated[UUID, Depends(_own_order)]
"""The parameter ``order_id`` of a path, whose order isn't somebody else's."""
OwnPayment = Annotated[UUID, Depends(_own_payment)]
"""The parameter ``payment_id`` of a path, whose payment isn't somebody else's."""


async def require_own_order(tx: AsyncSession, principal: Principal, order_id: UUID) -> None:
    """Refuse an order that is somebody else's, as one that isn't there.

    Raises:
        ProblemError: 404.
    """
    order = await SqlRepository(tx, Order, principal.tenant, Order.id).get(order_id)
    if order is None or not principal.owns(order.user_id):
        raise not_found(f"order {order_id}")
