"""``payments.refund``: money given back at the gateway, then booked; a key a refund."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders import rows as order_rows
from commerce.payments import ledger
from commerce.payments import rows as payment_rows
from commerce.payments.gateway import Gateway
from commerce.payments.ledger import Transfer
from commerce.payments.rows import LockedPayment
from commerce.payments.rules import KEY_SECONDS, Declined, GatewayAnswer, Unclear, Untraceable
from goodsyard.job import Job, new_id
from goodsyard.outcomes import UNCERTAIN, Dead, Done, Outcome, Refused, Retry
from tasks.contracts import RefundPayment


def refund_of(payment: LockedPayment, gateway_id: str, amount: int) -> RefundPayment:
    """Return the job that gives ``amount`` minor units of a captured payment back."""
    return RefundPayment(
        refund_id=new_id(), payment_id=payment.id, gateway_id=gateway_id, amount=amount
    )


class Refund:
    """Gives captured money back, a key a refund."""

    contract = RefundPayment

    def __init__(self, gateway: Gateway) -> None:
        """Refund through ``gateway``."""
        self._gateway = gateway

    async def call(self, job: Job[RefundPayment]) -> GatewayAnswer | Untraceable:
        """Ask the gateway; the refund's own id is the key, so that a repeat changes nothing.

        Once the gateway may have forgotten the key, the refund is looked up instead.
        """
        refund = job.payload
        if job.age > KEY_SECONDS:
            found = await self._gateway.find_refund(refund.refund_id, refund.gateway_id)
            return found or Untraceable()
        return await self._gateway.refund(refund.refund_id, refund.gateway_id, refund.amount)

    async def settle(
        self,
        tx: AsyncSession,
        answered: Sequence[tuple[Job[RefundPayment], GatewayAnswer | Untraceable]],
    ) -> Sequence[Outcome]:
        """Book each refund, one at a time: they are rare, and two may be of one payment.

        What they touch is locked before, all of it in order: two chunks never wait in a circle.
        """
        ids = [job.payload.payment_id for job, _ in answered]
        orders = await payment_rows.orders_of(tx, ids)
        await order_rows.lock(tx, list(orders.values()))
        payments = await payment_rows.lock(tx, ids)
        return [await _refunded(tx, job, answer, payments, orders) for job, answer in answered]


async def _refunded(
    tx: AsyncSession,
    job: Job[RefundPayment],
    answer: GatewayAnswer | Untraceable,
    payments: Mapping[UUID, LockedPayment],
    orders: Mapping[UUID, UUID],
) -> Outcome:
    refund = job.payload
    payment = payments.get(refund.payment_id)
    if payment is None:
        return Refused(f"there is no payment {refund.payment_id}")
    if isinstance(answer, Untraceable):
        return Dead(UNCERTAIN, "too old to be sent again, and no trace at the gateway: look")
    if isinstance(answer, Unclear):
        return Retry(answer.error, answer.after)
    if isinstance(answer, Declined):
        return Refused(f"the gateway refuses the refund: {answer.code}")
    await payment_rows.add_refunded(tx, {payment.id: refund.amount})
    if payment.id in orders:
        await order_rows.add_refunded(tx, orders[payment.id], refund.amount)
    code = f"refund:{refund.refund_id}"
    await ledger.book(
        tx,
        [
            Transfer(
                payment.tenant,
                ledger.SALES,
                ledger.GATEWAY,
                refund.amount,
                payment.currency,
                code,
                payment.id,
            )
        ],
    )
    return Done({"refund": str(refund.refund_id), "gateway_id": answer.gateway_id})
