"""Payments as they are asked for and shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from commerce.money import MAX_AMOUNT, Amount, Currency, Money
from commerce.payments.models import Payment
from commerce.payments.rules import PaymentState
from producers.order_shapes import BlockedBy, Document, JobRef


class PaymentIn(BaseModel):
    """A charge without an order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: UUID
    amount: Annotated[Amount, Field(gt=0)] = Field(description="Minor units.")
    currency: Currency
    payment_method: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,255}$")] = Field(
        description="The gateway's name for it, as in `pm_card_visa`."
    )
    description: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")] | None = (
        Field(default=None, description="What it is for, in the caller's words.")
    )


class RefundIn(BaseModel):
    """How much to give back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount: Annotated[int, Field(strict=True, ge=1, le=MAX_AMOUNT)] | None = Field(
        default=None, description="Minor units; all that is left, if not given."
    )


class PaymentOut(BaseModel):
    """A payment and how far it is."""

    id: UUID
    href: str
    status: PaymentState
    reason: str | None = Field(
        description="Why it failed, in the gateway's words: as in `insufficient_funds`, or "
        "`authentication_required` where the card wants its holder, who isn't there."
    )
    user_id: UUID
    order_id: UUID | None = Field(description="The order it pays, if it pays one.")
    amount: Money
    amount_refunded: Money
    payment_method: str
    description: str | None
    gateway_id: str | None = Field(description="The gateway's name for the charge.")
    dispute: str | None = Field(
        description="What the card's holder says against it, and how far that is: for a person."
    )
    created_at: datetime
    updated_at: datetime
    blocked_by: BlockedBy | None = Field(
        default=None, description="Where a single payment is asked for, and a job of it is dead."
    )


class AcceptedPayment(BaseModel):
    """A payment that something was accepted for, and the job that carries it out."""

    payment: PaymentOut
    job: JobRef


class PaymentList(BaseModel):
    """The payments of an order, newest first: one that counts, and those that failed before it."""

    data: list[PaymentOut]
    next_cursor: None = None


def payment_href(payment_id: UUID) -> str:
    """Return the path of a payment."""
    return f"/v1/payments/{payment_id}"


def payment(row: Payment) -> Document:
    """Return a payment as it is now."""
    return {
        "id": row.id,
        "href": payment_href(row.id),
        "status": row.state,
        "reason": row.failure,
        "user_id": row.user_id,
        "order_id": row.order_id,
        "amount": {"amount": row.amount, "currency": row.currency},
        "amount_refunded": {"amount": row.amount_refunded, "currency": row.currency},
        "payment_method": row.payment_method,
        "description": row.description,
        "gateway_id": row.gateway_id,
        "dispute": row.dispute,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
