"""What a payment may become, and what each answer of a gateway means for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID


class PaymentState(StrEnum):
    """Where a payment stands."""

    PENDING = "pending"
    """Its charge is under way: it may or may not have happened at the gateway."""
    SUCCEEDED = "succeeded"
    """Captured, and booked in the same commit that says so."""
    FAILED = "failed"
    """Definitely declined: no money moved."""
    CANCELLED = "cancelled"
    """Called off before the gateway was asked."""


@dataclass(frozen=True, slots=True)
class Captured:
    """The money is ours; ``gateway_id`` is the provider's name for the charge or refund."""

    gateway_id: str


@dataclass(frozen=True, slots=True)
class Declined:
    """A definite no, with the provider's code: no money moved, and asking again changes nothing."""

    code: str
    gateway_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unclear:
    """No definite answer: it may have happened. Ask again under the same key, never compensate."""

    error: str
    after: float | None = None
    """Seconds the provider asked us to wait."""
    busy: bool = False
    """It is asked too often."""
    stored: bool = False
    """The provider repeats an error that it keeps under our key: asking again can't clear it up."""


@dataclass(frozen=True, slots=True)
class Untraceable:
    """Too old to be sent again, and the gateway shows no trace of it: for a person to decide."""


GatewayAnswer: TypeAlias = Captured | Declined | Unclear


KEY_SECONDS = 20 * 3_600.0
"""How long a key is relied on: Stripe forgets keys after 24 hours, and a request sent shortly
before may arrive after. From then on a charge is looked up, never sent."""


def charge_key(payment_id: UUID) -> str:
    """Return the idempotency key of a payment's charge: the row's, never an attempt's."""
    return f"{payment_id}:charge"


def cancel_key(payment_id: UUID) -> str:
    """Return the idempotency key of calling a charge off that nobody can confirm."""
    return f"{payment_id}:cancel"


def refund_key(refund_id: UUID) -> str:
    """Return the idempotency key of a refund."""
    return f"{refund_id}:refund"
