"""``payments.charge``: asked of the gateway, then booked in one commit with all that follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders import rows as order_rows
from commerce.orders.rows import LockedOrder
from commerce.orders.rules import OrderStatus, needs_of
from commerce.payments import ledger
from commerce.payments import rows as payment_rows
from commerce.payments.gateway import Gateway
from commerce.payments.ledger import Transfer
from commerce.payments.rows import LockedPayment, Verdict
from commerce.payments.rules import (
    KEY_SECONDS,
    Captured,
    Declined,
    GatewayAnswer,
    PaymentState,
    Unclear,
    Untraceable,
)
from commerce.stock import rows as stock_rows
from goodsyard.contracts import Contract
from goodsyard.database import send_ahead
from goodsyard.job import Job
from goodsyard.outcomes import UNCERTAIN, Dead, Done, Outcome, Refused, Retry
from tasks import events
from tasks.contracts import ChargePayment
from tasks.receipts import receipt
from tasks.refunds import refund_of


class Charge:
    """Charges payments: one confirmed intent each, captured at once."""

    contract = ChargePayment

    def __init__(self, gateway: Gateway) -> None:
        """Charge through ``gateway``."""
        self._gateway = gateway

    async def call(self, job: Job[ChargePayment]) -> GatewayAnswer | Untraceable:
        """Ask the gateway; our payment's id is the key, so that a repeat changes nothing.

        Once the gateway may have forgotten the key, the charge is looked up instead.
        """
        charge = job.payload
        if job.age > KEY_SECONDS:
            return await self._gateway.find_charge(charge.payment_id) or Untraceable()
        return await self._gateway.charge(
            charge.payment_id, charge.amount, charge.currency, charge.payment_method
        )

    async def settle(
        self,
        tx: AsyncSession,
        answered: Sequence[tuple[Job[ChargePayment], GatewayAnswer | Untraceable]],
    ) -> Sequence[Outcome]:
        """Book what was captured, release what was declined; what is unclear is asked again."""
        return await settle_charges(
            tx,
            [(job.payload.payment_id, job.payload.order_id, answer) for job, answer in answered],
        )


async def settle_charges(
    tx: AsyncSession,
    answered: Sequence[tuple[UUID, UUID | None, GatewayAnswer | Untraceable]],
) -> Sequence[Outcome]:
    """Write down what the gateway said of payments, whoever asked; an outcome each, in their order.

    Args:
        tx: the transaction; nothing is read in it after this.
        answered: payments, the order of each that has one, and the gateway's answer.
    """
    orders = await order_rows.lock(tx, [order for _, order, _ in answered if order])
    payments = await payment_rows.lock(tx, [payment for payment, _, _ in answered])
    verdicts = {
        payment.id: _verdict(answer)
        for payment_id, _, answer in answered
        if isinstance(answer, (Captured, Declined))
        and (payment := payments.get(payment_id))
        and payment.state is PaymentState.PENDING
    }
    await _write_down(tx, orders, payments, verdicts)
    return [
        _charged(payment_id, answer, orders, payments, verdicts)
        for payment_id, _, answer in answered
    ]


def _verdict(answer: Captured | Declined) -> Verdict:
    if isinstance(answer, Captured):
        return Verdict(PaymentState.SUCCEEDED, answer.gateway_id)
    return Verdict(PaymentState.FAILED, answer.gateway_id, answer.code)


async def _write_down(
    tx: AsyncSession,
    orders: Mapping[UUID, LockedOrder],
    payments: Mapping[UUID, LockedPayment],
    verdicts: Mapping[UUID, Verdict],
) -> None:
    """Payments, their orders, the stock and the ledger: all of it follows from the verdicts."""
    captured = [payments[p] for p, v in verdicts.items() if v.state is PaymentState.SUCCEEDED]
    declined = [payments[p] for p, v in verdicts.items() if v.state is PaymentState.FAILED]
    paid, failed = _order_ids(captured), _order_ids(declined)
    needs = {d.order_id: d for d in await order_rows.demands(tx, sorted(paid | failed))}
    # A cancel came while the gateway was at work: charged, so refunded, but nothing is shipped.
    called_off = {order for order in paid if orders[order].cancel_requested}
    reasons = {p.order_id: verdicts[p.id].failure for p in declined}
    await send_ahead(tx)
    await payment_rows.move(tx, verdicts)
    await order_rows.move(
        tx,
        dict.fromkeys(paid, (OrderStatus.PAID, None))
        | {order: (OrderStatus.PAYMENT_FAILED, reasons[order]) for order in failed},
    )
    await ledger.book(tx, [_capture_of(payment) for payment in captured])
    await events.tell(tx, orders=paid | failed, payments=verdicts)
    # The last of what is locked: other chunks wait for the same few rows.
    await stock_rows.hand_out(
        tx,
        taken=needs_of(needs[order] for order in paid - called_off),
        released=needs_of(needs[order] for order in failed | called_off),
    )


def _capture_of(payment: LockedPayment) -> Transfer:
    return Transfer(
        payment.tenant,
        ledger.GATEWAY,
        ledger.SALES,
        payment.amount,
        payment.currency,
        ledger.CAPTURE,
        payment.id,
    )


def _order_ids(payments: Iterable[LockedPayment]) -> set[UUID]:
    return {payment.order_id for payment in payments if payment.order_id is not None}


def _charged(
    payment_id: UUID,
    answer: GatewayAnswer | Untraceable,
    orders: Mapping[UUID, LockedOrder],
    payments: Mapping[UUID, LockedPayment],
    verdicts: Mapping[UUID, Verdict],
) -> Outcome:
    payment = payments.get(payment_id)
    if payment is None:
        return Refused(f"there is no payment {payment_id}")
    match answer:
        case Unclear(error, after, busy):
            return Retry(error, after, busy)
        case Untraceable():
            return Dead(UNCERTAIN, "too old to be sent again, and no trace at the gateway: look")
        case _:
            verdict = verdicts.get(payment.id) or _verdict(answer)
    if payment.id not in verdicts and payment.state is not verdict.state:
        return Dead(UNCERTAIN, f"{verdict.state} at the gateway, {payment.state} in our books")
    result = {"state": verdict.state, "gateway_id": verdict.gateway_id, "failure": verdict.failure}
    order = orders.get(payment.order_id) if payment.order_id else None
    if payment.id in verdicts and order is not None and isinstance(answer, Captured):
        return Done(result, next=_after_capture(order, payment, answer))
    return Done(result)


def _after_capture(
    order: LockedOrder, payment: LockedPayment, captured: Captured
) -> Sequence[Contract]:
    """Tell the customer; or, if the order was called off meanwhile, give the money back."""
    if order.cancel_requested:
        return [refund_of(payment, captured.gateway_id, payment.amount)]
    return receipt(order.id, order.email, payment.amount, payment.currency)
