"""Cancels and refunds orders, whatever the flow is doing with them at that moment.

Everything is decided under the order's lock. A chunk takes its jobs first and the order second, so
what can't be taken back from under it will read, under that lock, that a cancel was asked for.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders import rows as order_rows
from commerce.orders.rows import LockedOrder
from commerce.orders.rules import OrderStatus, needs_of
from commerce.payments import rows as payment_rows
from commerce.payments.rows import LockedPayment, Verdict
from commerce.payments.rules import PaymentState
from commerce.stock import rows as stock_rows
from goodsyard import recall
from tasks import events
from tasks.contracts import ChargePayment, ProcessOrder
from tasks.refunds import RefundTooLargeError, refundable, stage_refund


class OrderNotFoundError(Exception):
    """The tenant has no such order."""


class OrderStateError(Exception):
    """The order's state forbids it; the message says which state, and what is possible."""


async def cancel_order(tx: AsyncSession, tenant: int, order_id: UUID) -> None:
    """Cancel an order: released if nothing was charged, refunded if something was, or will be.

    Raises:
        OrderNotFoundError: the tenant has no such order.
        OrderStateError: it came to its end already, or is being refunded.
    """
    order = await _locked(tx, tenant, order_id)
    match order.status:
        case OrderStatus.PENDING:
            if await recall.cancel_unstarted(tx, [order.id], ProcessOrder.kind):
                await _end(tx, order)
        case OrderStatus.RESERVED:
            await _cancel_reserved(tx, order)
        case OrderStatus.PAID:
            await _cancel_paid(tx, order)
        case _:
            message = f"the order is {order.status}: there is nothing left to cancel"
            raise OrderStateError(message)
    await order_rows.request_cancel(tx, order.id)


async def refund_order(tx: AsyncSession, tenant: int, order_id: UUID, amount: int | None) -> UUID:
    """Stage a refund of ``amount`` minor units, or of all that is left, and return the job's id.

    Raises:
        OrderNotFoundError: the tenant has no such order.
        OrderStateError: nothing was charged, or less than ``amount`` is left of it.
    """
    order = await _locked(tx, tenant, order_id)
    if order.status is not OrderStatus.PAID or order.total == 0:
        message = f"the order is {order.status} and {order.total} was charged: nothing to refund"
        raise OrderStateError(message)
    payment = await _captured(tx, order)
    try:
        return await stage_refund(tx, payment, amount)
    except RefundTooLargeError as error:
        raise OrderStateError(str(error)) from error


async def _locked(tx: AsyncSession, tenant: int, order_id: UUID) -> LockedOrder:
    order = (await order_rows.lock(tx, [order_id])).get(order_id)
    if order is None or order.tenant != tenant:
        raise OrderNotFoundError(str(order_id))
    return order


async def _cancel_reserved(tx: AsyncSession, order: LockedOrder) -> None:
    """Release the order if its charge was never begun; else its settlement will refund it."""
    payment_id = await payment_rows.live_payment_of(tx, order.id)
    if payment_id and await recall.cancel_unstarted(tx, [payment_id], ChargePayment.kind):
        await payment_rows.lock(tx, [payment_id])
        await payment_rows.move(tx, {payment_id: Verdict(PaymentState.CANCELLED)})
        await events.tell(tx, payments=[payment_id])
        needs = needs_of(await order_rows.demands(tx, [order.id]))
        await stock_rows.release(tx, needs)
        await _end(tx, order)


async def _cancel_paid(tx: AsyncSession, order: LockedOrder) -> None:
    """Give back what was paid and put the goods back on the shelf; both only once."""
    if order.cancel_requested:
        message = "the order is cancelled already: its refund is under way"
        raise OrderStateError(message)
    if order.total > 0:
        payment = await _captured(tx, order)
        left = await refundable(tx, payment)
        if left > 0:
            await stage_refund(tx, payment, left)
    else:
        await _end(tx, order)
    needs = needs_of(await order_rows.demands(tx, [order.id]))
    await stock_rows.restock(tx, needs)


async def _end(tx: AsyncSession, order: LockedOrder) -> None:
    await order_rows.move(tx, {order.id: (OrderStatus.CANCELLED, "cancelled")})
    await events.tell(tx, orders=[order.id])


async def _captured(tx: AsyncSession, order: LockedOrder) -> LockedPayment:
    payment_id = await payment_rows.live_payment_of(tx, order.id)
    if payment_id is None:
        message = f"order {order.id} is paid and has no payment: the books need a person's look"
        raise OrderStateError(message)
    return (await payment_rows.lock(tx, [payment_id]))[payment_id]
