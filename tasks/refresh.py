"""``payments.refresh``: brings what the gateway says of a charge into our books, each thing once.

It is asked for when an event says that something happened. Whoever makes events up, repeats them or
mixes their order has the gateway asked once more, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders import rows as order_rows
from commerce.payments import ledger
from commerce.payments import rows as payment_rows
from commerce.payments.gateway import Gateway
from commerce.payments.reconciliation import Sight
from commerce.payments.rows import LockedPayment
from commerce.payments.rules import Captured, Declined, GatewayAnswer, PaymentState, Untraceable
from goodsyard.job import Job
from goodsyard.outcomes import UNCERTAIN, Dead, Done, Outcome, Refused
from tasks.contracts import RefreshPayment
from tasks.payments import settle_charges
from tasks.refunds import book_refund

_IN_OUR_BOOKS = {Captured: PaymentState.SUCCEEDED, Declined: PaymentState.FAILED}


class Refresh:
    """Asks the gateway how charges stand."""

    contract = RefreshPayment

    def __init__(self, gateway: Gateway) -> None:
        """Ask ``gateway``."""
        self._gateway = gateway

    async def call(self, job: Job[RefreshPayment]) -> Sight:
        """Read the charge, its refunds and its disputes.

        One that failed is not the last word: under a key that the gateway had forgotten the payment
        may have been charged by another one.
        """
        sight = await self._gateway.look(job.payload.gateway_id)
        if isinstance(sight.answer, Declined):
            found = await self._gateway.find_charge(job.payload.payment_id)
            return replace(sight, answer=found or sight.answer)
        return sight

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[RefreshPayment], Sight]]
    ) -> Sequence[Outcome]:
        """Note disputes, book refunds, and settle charges whose own jobs have given up.

        Refunds are booked one at a time, as those that we asked for: they are rare.
        """
        ids = [job.payload.payment_id for job, _ in answered]
        orders = await payment_rows.orders_of(tx, ids)
        await order_rows.lock(tx, list(orders.values()))
        payments = await payment_rows.lock(tx, ids)
        outcomes = [await _noted(tx, job.payload, sight, payments) for job, sight in answered]
        pending: dict[UUID, GatewayAnswer | Untraceable] = {
            payment.id: sight.answer
            for (job, sight), outcome in zip(answered, outcomes, strict=True)
            if isinstance(outcome, Done)
            and type(sight.answer) in _IN_OUR_BOOKS
            and (payment := payments[job.payload.payment_id]).state is PaymentState.PENDING
        }
        settled = await _settle(tx, pending, orders)
        return [
            _and_refunds(job.payload, sight, settled.pop(job.payload.payment_id))
            if job.payload.payment_id in settled
            else outcome
            for (job, sight), outcome in zip(answered, outcomes, strict=True)
        ]


async def _noted(
    tx: AsyncSession,
    refresh: RefreshPayment,
    sight: Sight,
    payments: Mapping[UUID, LockedPayment],
) -> Outcome:
    """Write down what is no verdict on the charge: its dispute, and its refunds if it is booked."""
    outcome = _compared(refresh, sight, payments)
    if not isinstance(outcome, Done):
        return outcome
    payment = payments[refresh.payment_id]
    await payment_rows.note_dispute(tx, payment.id, sight.dispute)
    if payment.state is not PaymentState.SUCCEEDED:
        return outcome
    booked = await ledger.refunds_booked(tx, payment.tenant, [payment.id])
    for refund in sight.refunds:
        if (payment.id, refund.refund_id) not in booked:
            await book_refund(tx, payment, refund.refund_id, refund.amount)
    returned = [r.gateway_id for r in sight.fallen_through if (payment.id, r.refund_id) in booked]
    if returned:
        return Dead(UNCERTAIN, f"booked, and sent back by the card's bank: {', '.join(returned)}")
    return outcome


def _compared(
    refresh: RefreshPayment, sight: Sight, payments: Mapping[UUID, LockedPayment]
) -> Outcome:
    """Return how the job ends, before anything is written: what contradicts us is a person's."""
    payment = payments.get(refresh.payment_id)
    if payment is None:
        return Refused(f"there is no payment {refresh.payment_id}")
    charge = sight.charge
    if charge.payment_id != str(payment.id) or (charge.amount, charge.currency) != (
        payment.amount,
        payment.currency,
    ):
        return Dead(UNCERTAIN, f"{charge.gateway_id} is no charge of this payment: look")
    theirs = _IN_OUR_BOOKS.get(type(sight.answer), payment.state)
    if payment.state not in {theirs, PaymentState.PENDING}:
        return Dead(UNCERTAIN, f"{theirs} at the gateway, {payment.state} in our books")
    return Done({"state": theirs, "gateway_id": charge.gateway_id, "dispute": sight.dispute})


async def _settle(
    tx: AsyncSession,
    pending: Mapping[UUID, GatewayAnswer | Untraceable],
    orders: Mapping[UUID, UUID],
) -> dict[UUID, Outcome]:
    answered = [(payment, orders.get(payment), answer) for payment, answer in pending.items()]
    outcomes = await settle_charges(tx, answered) if answered else ()
    return dict(zip(pending, outcomes, strict=True))


def _and_refunds(refresh: RefreshPayment, sight: Sight, settled: Outcome) -> Outcome:
    """Return the outcome of a charge that was just settled; its refunds are booked after it."""
    if isinstance(settled, Done) and isinstance(sight.answer, Captured) and sight.refunds:
        return replace(settled, next=[*settled.next, refresh])
    return settled
