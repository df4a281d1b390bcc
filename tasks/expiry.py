"""Reservations expire, but only where our own rows prove that no charge was ever sent.

A worker writes down that a charge has begun, and commits, before the gateway hears of it; nothing
takes that mark away again. So a charge without it was never sent, and once its job is taken back in
the transaction that gives the goods back, it never will be. One with it may have been paid for,
whatever became of its worker: such an order keeps its goods until its charge is cleared up.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from uuid import UUID

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders import rows as order_rows
from commerce.orders.rows import LockedOrder
from commerce.orders.rules import OrderStatus, needs_of
from commerce.payments import rows as payment_rows
from commerce.payments.rows import Verdict
from commerce.payments.rules import PaymentState
from commerce.stock import rows as stock_rows
from goodsyard import recall
from goodsyard.database import send_ahead
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome, Refused
from goodsyard.settings import Settings
from goodsyard.submit import Staged, stage
from tasks import events
from tasks.contracts import ChargePayment, ExpireReservation

EXPIRED = "reservation_expired"
"""The reason of an order that was called off for it."""

_MOST = 500  # orders a look finds; the next one finds those that come after them


class ReservationSettings(Settings):
    """How long goods are set aside for an order whose charge doesn't begin."""

    reservation_seconds: int = Field(
        default=3_600,
        ge=1,
        description="How long goods stay reserved for an order whose charge was never sent.",
        examples=["3600"],
    )


async def stage_expiries(tx: AsyncSession, seconds: float) -> frozenset[str]:
    """Stage the expiry of orders whose charge has been due for ``seconds`` and never began.

    It only points them out, and may do so twice: the job decides under the order's lock.

    Returns:
        The kinds of which a job was staged.
    """
    late = await recall.overdue(tx, ChargePayment.kind, seconds, member="order_id", most=_MOST)
    expiries = [
        (job.tenant, ExpireReservation.model_validate({"order_id": job.payload["order_id"]}))
        for job in late
    ]
    staged = await stage(
        tx, [Staged(tenant, job, unique_key=str(job.order_id)) for tenant, job in expiries]
    )
    return frozenset({ExpireReservation.kind} if staged else ())


async def expire(jobs: Sequence[Job[ExpireReservation]], tx: AsyncSession) -> Sequence[Outcome]:
    """Call each order of the chunk off that is reserved and whose charge can be taken back."""
    orders = await order_rows.lock(tx, [job.payload.order_id for job in jobs])
    reserved = [o.id for o in orders.values() if o.status is OrderStatus.RESERVED]
    payments = await payment_rows.pending_payments_of(tx, reserved)
    never_sent = await recall.cancel_unstarted(tx, list(payments.values()), ChargePayment.kind)
    expired = {order: payment for order, payment in payments.items() if payment in never_sent}
    await payment_rows.lock(tx, list(expired.values()))
    demands = await order_rows.demands(tx, list(expired))
    await send_ahead(tx)
    cancelled = Verdict(PaymentState.CANCELLED)
    await payment_rows.move(tx, dict.fromkeys(expired.values(), cancelled))
    await order_rows.move(tx, dict.fromkeys(expired, (OrderStatus.CANCELLED, EXPIRED)))
    await events.tell(tx, orders=expired, payments=expired.values())
    await stock_rows.release(tx, needs_of(demands))
    return [_outcome(job, expired, orders) for job in jobs]


def _outcome(
    job: Job[ExpireReservation],
    expired: Container[UUID],
    orders: Mapping[UUID, LockedOrder],
) -> Outcome:
    order = orders.get(job.payload.order_id)
    if order is None:
        return Refused(f"there is no order {job.payload.order_id}")
    return Done({"status": OrderStatus.CANCELLED if order.id in expired else order.status})
