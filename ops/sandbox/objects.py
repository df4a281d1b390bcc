"""The Stripe objects the sandbox holds: immutable, so an answer can be given again as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ops.sandbox.cards import DECLINES, DISPUTED

IntentStatus = Literal[
    "requires_payment_method", "requires_confirmation", "requires_action", "succeeded", "canceled"
]

CANCELABLE: frozenset[IntentStatus] = frozenset(
    {"requires_payment_method", "requires_confirmation", "requires_action"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentIntent:
    """A PaymentIntent at one moment; a change is another object in its place.

    ``amount`` is in the currency's minor unit, times are Unix seconds.
    """

    id: str
    amount: int
    currency: str
    status: IntentStatus
    created: int
    client_secret: str
    payment_method: str | None = None
    customer: str | None = None
    description: str | None = None
    receipt_email: str | None = None
    statement_descriptor: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    charge_id: str | None = None
    decline_code: str | None = None
    canceled_at: int | None = None
    cancellation_reason: str | None = None
    amount_refunded: int = 0

    @property
    def charge_status(self) -> Literal["succeeded", "failed"]:
        """How the attempt to charge it ended."""
        return "succeeded" if self.decline_code is None else "failed"

    def as_stripe(self) -> dict[str, object]:
        """Return the JSON form (https://docs.stripe.com/api/payment_intents/object)."""
        return {
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": 0,
            "amount_received": self.amount if self.status == "succeeded" else 0,
            "application": None,
            "application_fee_amount": None,
            "automatic_payment_methods": None,
            "canceled_at": self.canceled_at,
            "cancellation_reason": self.cancellation_reason,
            "capture_method": "automatic",
            "client_secret": self.client_secret,
            "confirmation_method": "automatic",
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "description": self.description,
            "last_payment_error": self._last_payment_error(),
            "latest_charge": self.charge_id,
            "livemode": False,
            "metadata": self.metadata,
            "next_action": (
                {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
                if self.status == "requires_action"
                else None
            ),
            "on_behalf_of": None,
            "payment_method": None if self.decline_code else self.payment_method,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "processing": None,
            "receipt_email": self.receipt_email,
            "review": None,
            "setup_future_usage": None,
            "shipping": None,
            "statement_descriptor": self.statement_descriptor,
            "statement_descriptor_suffix": None,
            "status": self.status,
            "transfer_data": None,
            "transfer_group": None,
        }

    def dispute(self) -> Mapping[str, object] | None:
        """Return what its holder's bank says against it, if it does, as Stripe has disputes.

        https://docs.stripe.com/api/disputes/object
        """
        if self.status != "succeeded" or self.payment_method not in DISPUTED:
            return None
        return {
            "id": f"dp_{str(self.charge_id).removeprefix('ch_')}",
            "object": "dispute",
            "amount": self.amount,
            "charge": self.charge_id,
            "created": self.created,
            "currency": self.currency,
            "is_charge_refundable": False,
            "livemode": False,
            "metadata": {},
            "payment_intent": self.id,
            "reason": "fraudulent",
            "status": "needs_response",
        }

    def as_card_error(self) -> dict[str, object]:
        """Return the body of the 402 that a declined confirmation is answered with."""
        return {"error": {**(self._last_payment_error() or {}), "payment_intent": self.as_stripe()}}

    def _last_payment_error(self) -> dict[str, object] | None:
        if self.decline_code is None:
            return None
        return {
            **DECLINES[self.decline_code].as_error(),
            "charge": self.charge_id,
            "payment_method": {
                "id": self.payment_method,
                "object": "payment_method",
                "type": "card",
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """Money given back for one PaymentIntent; ``amount`` in minor units."""

    id: str
    amount: int
    currency: str
    created: int
    payment_intent: str
    charge: str
    reason: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def as_stripe(self) -> dict[str, object]:
        """Return the JSON form (https://docs.stripe.com/api/refunds/object)."""
        return {
            "id": self.id,
            "object": "refund",
            "amount": self.amount,
            "balance_transaction": None,
            "charge": self.charge,
            "created": self.created,
            "currency": self.currency,
            "destination_details": {"type": "card"},
            "metadata": self.metadata,
            "payment_intent": self.payment_intent,
            "reason": self.reason,
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "succeeded",
            "transfer_reversal": None,
        }
