"""``payments.refund``: money given back once at the gateway, then booked once; a key a refund."""

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
from commerce.payments.rules import (
    KEY_SECONDS,
    Declined,
    GatewayAnswer,
    PaymentState,
    Unclear,
    Untraceable,
)
from goodsyard import recall
from goodsyard.job import Job, new_id
from goodsyard.outcomes import UNCERTAIN, Dead, Done, Outcome, Refused, Retry
from goodsyard.submit import Staged, stage
from tasks import events
from tasks.contracts import RefundPayment


def refund_of(payment: LockedPayment, gateway_id: str, amount: int) -> RefundPayment:
    """Return the job that gives ``amount`` minor units of a captured payment back."""
    return RefundPayment(
        refund_id=new_id(), payment_id=payment.id, gateway_id=gateway_id, amount=amount
    )


class RefundTooLargeError(Exception):
    """More is asked back than is left; the message says how much is."""


class PaymentNotFoundError(Exception):
    """The tenant has no such payment."""


class PaymentStateError(Exception):
    """Nothing was captured, so that there is nothing to give back; the message says which state."""


async def refund_payment(
    tx: AsyncSession, tenant: int, payment_id: UUID, amount: int | None
) -> UUID:
    """Stage a refund of ``amount`` minor units, or of all that is left, and return the job's id.

    Raises:
        PaymentNotFoundError: the tenant has no such payment.
        PaymentStateError: it was never captured.
        RefundTooLargeError: less than ``amount`` is left of it.
    """
    orders = await payment_rows.orders_of(tx, [payment_id])
    await order_rows.lock(tx, list(orders.values()))
    payment = (await payment_rows.lock(tx, [payment_id])).get(payment_id)
    if payment is None or payment.tenant != tenant:
        raise PaymentNotFoundError(str(payment_id))
    if payment.state is not PaymentState.SUCCEEDED:
        message = f"the payment is {payment.state}: nothing to refund"
        raise PaymentStateError(message)
    return await stage_refund(tx, payment, amount)


async def stage_refund(tx: AsyncSession, payment: LockedPayment, amount: int | None) -> UUID:
    """Stage a refund of a locked, captured payment; return the job's id.

    Raises:
        RefundTooLargeError: less than ``amount`` minor units is left of it, or nothing.
    """
    left = await refundable(tx, payment)
    wanted = left if amount is None else amount
    if not 0 < wanted <= left:
        message = f"of {payment.amount} paid, {left} can still be refunded, not {wanted}"
        raise RefundTooLargeError(message)
    staged = Staged(payment.tenant, refund_of(payment, str(payment.gateway_id), wanted))
    await stage(tx, [staged])
    return staged.id


async def refundable(tx: AsyncSession, payment: LockedPayment) -> int:
    """Return what was captured, less what was given back or is about to be."""
    under_way = [
        RefundPayment.model_validate(payload)
        for payload in await recall.undecided(tx, payment.id, RefundPayment.kind)
    ]
    booked = await ledger.refunds_booked(tx, payment.tenant, [payment.id]) if under_way else set()
    asked = sum(
        refund.amount
        for refund in under_way
        if (payment.id, str(refund.refund_id)) not in booked  # a dead job's, found by an event
    )
    return payment.amount - payment.amount_refunded - asked


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
        return [await _refunded(tx, job, answer, payments) for job, answer in answered]


async def _refunded(
    tx: AsyncSession,
    job: Job[RefundPayment],
    answer: GatewayAnswer | Untraceable,
    payments: Mapping[UUID, LockedPayment],
) -> Outcome:
    refund = job.payload
    payment = payments.get(refund.payment_id)
    if payment is None:
        return Refused(f"there is no payment {refund.payment_id}")
    if isinstance(answer, Untraceable):
        return Dead(UNCERTAIN, "too old to be sent again, and no trace at the gateway: look")
    if isinstance(answer, Unclear):
        return Retry(answer.error, answer.after, answer.busy)
    if isinstance(answer, Declined):
        return Refused(f"the gateway refuses the refund: {answer.code}")
    # An event may have told of it while the job was dead, and a person have let it run again.
    if (payment.id, str(refund.refund_id)) not in await ledger.refunds_booked(
        tx, payment.tenant, [payment.id]
    ):
        await book_refund(tx, payment, str(refund.refund_id), refund.amount)
    return Done({"refund": str(refund.refund_id), "gateway_id": answer.gateway_id})


async def book_refund(tx: AsyncSession, payment: LockedPayment, name: str, amount: int) -> None:
    """Book what the gateway gave back of a locked payment, and tell its order, which is locked too.

    Args:
        tx: the transaction.
        payment: as it is under the lock.
        name: our id of the refund, or the gateway's where it was made there.
        amount: minor units.

    Raises:
        sqlalchemy.exc.IntegrityError: it is booked, or comes to more than was paid.
    """
    await payment_rows.add_refunded(tx, {payment.id: amount})
    if payment.order_id is not None:
        await order_rows.add_refunded(tx, payment.order_id, amount)
    code = f"{ledger.REFUND}:{name}"
    booking = Transfer(
        payment.tenant, ledger.SALES, ledger.GATEWAY, amount, payment.currency, code, payment.id
    )
    await ledger.book(tx, [booking])
    orders = [] if payment.order_id is None else [payment.order_id]
    await events.tell(tx, orders=orders, payments=[payment.id])
