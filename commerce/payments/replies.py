"""What is read of the gateway's replies, and what each status of them means for us."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from pydantic import BaseModel

from commerce.payments.reconciliation import Charge, Refund
from commerce.payments.rules import Captured, Declined, GatewayAnswer, Unclear

# requires_action means a customer has to be there, and nobody is: charges are off-session.
DECLINED_STATUSES = {
    "requires_action": "authentication_required",
    "requires_confirmation": "authentication_required",
    "requires_payment_method": "card_declined",
    "canceled": "canceled",
}
"""Why a charge in this status is none."""

CALLED_OFF = "abandoned"
"""The ``cancellation_reason`` of charges that we call off; Stripe knows four, this one fits."""

OVER = {"requires_payment_method", "canceled"}
"""What a charge is that nothing can capture any more without a new card."""

GIVEN_BACK = {"succeeded", "pending"}
"""What a refund is on its way to the card, and there."""
FALLEN_THROUGH = {"failed", "canceled"}
"""What a refund is whose money came back to us."""


class Reply(BaseModel):
    """What we read of a PaymentIntent or a Refund."""

    id: str
    status: str
    failure_reason: str | None = None


class Found(Reply):
    """What we read of a PaymentIntent or a Refund that was found."""

    amount: int
    currency: str
    created: int
    payment_intent: str | None = None
    reason: str | None = None
    cancellation_reason: str | None = None
    metadata: dict[str, str] = {}


def why_not(intent: Found) -> str:
    """Return why a PaymentIntent wasn't charged, as the reason in our books."""
    if intent.cancellation_reason == CALLED_OFF:
        return DECLINED_STATUSES["requires_action"]
    return DECLINED_STATUSES[intent.status]


def standing(intent: Found) -> GatewayAnswer:
    """Return what a PaymentIntent says of itself; it is only read, never called off."""
    if intent.status == "succeeded":
        return Captured(intent.id)
    if intent.status in OVER:
        return Declined(why_not(intent), intent.id)
    return Unclear(f"the gateway says {intent.status}")


def charge_of(intent: Found) -> Charge:
    """Return a PaymentIntent as the books have charges."""
    return Charge(
        payment_id=intent.metadata.get("payment_id", ""),
        gateway_id=intent.id,
        amount=intent.amount,
        currency=intent.currency.upper(),
        created=datetime.fromtimestamp(intent.created, UTC),
    )


def refund_of(refund: Found) -> Refund:
    """Return a refund as the books have them."""
    return Refund(
        # One that was made by hand goes by the gateway's own name in our books.
        refund_id=refund.metadata.get("refund_id") or refund.id,
        charge_id=refund.payment_intent or "",
        gateway_id=refund.id,
        amount=refund.amount,
        currency=refund.currency.upper(),
        created=datetime.fromtimestamp(refund.created, UTC),
    )


class Page(BaseModel):
    """A page of a list or a search."""

    data: list[Found]
    has_more: bool = False


def given_back(refund: Reply) -> GatewayAnswer:
    """Return what a refund says of itself."""
    if refund.status in GIVEN_BACK:
        return Captured(refund.id)
    return Declined(refund.failure_reason or f"refund {refund.status}", refund.id)


def is_of(intent: Found, payment_id: UUID) -> bool:
    """Whether a PaymentIntent is of our payment."""
    return intent.metadata.get("payment_id") == str(payment_id)
