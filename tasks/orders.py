"""``orders.process``: a chunk of orders gets its goods set aside, or is rejected, in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders import rows as order_rows
from commerce.orders.rows import LockedOrder
from commerce.orders.rules import (
    Allocation,
    Demand,
    OrderStatus,
    allocate,
    is_plenty,
    needs_of,
)
from commerce.payments import rows as payment_rows
from commerce.payments.rows import NewPayment
from commerce.stock import rows as stock_rows
from goodsyard.database import send_ahead
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome, Refused
from tasks import events
from tasks.contracts import ChargePayment, ProcessOrder
from tasks.receipts import receipt


async def process(jobs: Sequence[Job[ProcessOrder]], tx: AsyncSession) -> Sequence[Outcome]:
    """Move each pending order of the chunk on: reserved, paid (if free), rejected or cancelled."""
    orders = await order_rows.lock(tx, [job.payload.order_id for job in jobs])
    pending = [order for order in orders.values() if order.status is OrderStatus.PENDING]
    cancelled = [order for order in pending if order.cancel_requested]
    demands = await order_rows.demands(tx, [o.id for o in pending if not o.cancel_requested])
    allocation = await _allocate(tx, demands)

    accepted = [order for order in pending if order.id in allocation.accepted]
    payments = {order.id: _payment_for(order) for order in accepted if order.total > 0}
    moves = _moves(accepted, allocation.rejected, cancelled)
    free_of_charge = {order.id for order in accepted if order.total == 0}
    await send_ahead(tx)
    await payment_rows.insert(tx, list(payments.values()))
    await order_rows.move(tx, moves)
    await events.tell(tx, orders=moves)
    # The last of what is locked: other chunks wait for the same few rows.
    await stock_rows.reserve(tx, allocation.reserved)
    await stock_rows.hand_out(tx, needs_of(d for d in demands if d.order_id in free_of_charge))

    return [_outcome(job.payload.order_id, orders, moves, payments) for job in jobs]


async def _allocate(tx: AsyncSession, demands: Sequence[Demand]) -> Allocation:
    """Decide who gets goods; under lock where they could run out meanwhile.

    Where there is plenty, the table's own CHECK is who decides: were it all gone after all, the
    chunk is rolled back, and each order decided alone.
    """
    needed = needs_of(demands)
    free = await stock_rows.free(tx, needed)
    if not is_plenty(needed, free):
        free = await stock_rows.lock(tx, needed)
    return allocate(demands, free)


def _moves(
    accepted: Iterable[LockedOrder],
    rejected: Iterable[UUID],
    cancelled: Iterable[LockedOrder],
) -> dict[UUID, tuple[OrderStatus, str | None]]:
    moves: dict[UUID, tuple[OrderStatus, str | None]] = {
        order.id: (OrderStatus.RESERVED if order.total else OrderStatus.PAID, None)
        for order in accepted
    }
    moves |= dict.fromkeys(rejected, (OrderStatus.REJECTED, "out_of_stock"))
    moves |= {order.id: (OrderStatus.CANCELLED, "cancelled") for order in cancelled}
    return moves


def _payment_for(order: LockedOrder) -> NewPayment:
    return NewPayment(
        order.tenant, order.id, order.user_id, order.total, order.currency, order.payment_method
    )


def _outcome(
    order_id: UUID,
    orders: Mapping[UUID, LockedOrder],
    moves: Mapping[UUID, tuple[OrderStatus, str | None]],
    payments: Mapping[UUID, NewPayment],
) -> Outcome:
    order = orders.get(order_id)
    if order is None:
        return Refused(f"there is no order {order_id}")
    status, _ = moves.get(order_id, (order.status, None))
    if order_id in payments:
        payment = payments[order_id]
        charge = ChargePayment(
            payment_id=payment.id,
            order_id=order_id,
            amount=payment.amount,
            currency=payment.currency,
            payment_method=payment.payment_method,
        )
        return Done({"status": status, "payment": str(payment.id)}, next=[charge])
    if order_id in moves and status is OrderStatus.PAID:
        return Done({"status": status}, next=receipt(order_id, order.email, 0, order.currency))
    return Done({"status": status})
