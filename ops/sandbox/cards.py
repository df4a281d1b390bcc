"""Stripe's test payment methods, each with the answer it always gets.

Source: https://docs.stripe.com/testing (cards and declines) and https://docs.stripe.com/declines/codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Decline:
    """Why an issuer says no, in the words of Stripe's API."""

    code: str
    decline_code: str
    message: str

    def as_error(self) -> dict[str, object]:
        """Return what is common to the error body and ``last_payment_error``."""
        return {
            "type": "card_error",
            "code": self.code,
            "decline_code": self.decline_code,
            "message": self.message,
            "doc_url": f"https://docs.stripe.com/error-codes/{self.code.replace('_', '-')}",
        }


GENERIC = Decline("card_declined", "generic_decline", "Your card was declined.")
AUTHENTICATION_REQUIRED = Decline(
    "authentication_required",
    "authentication_required",
    "Your card was declined. This transaction requires authentication.",
)

DECLINES = MappingProxyType(
    {
        decline.decline_code: decline
        for decline in (
            GENERIC,
            AUTHENTICATION_REQUIRED,
            Decline("card_declined", "insufficient_funds", "Your card has insufficient funds."),
            Decline("card_declined", "lost_card", "Your card was declined: it is reported lost."),
            Decline("card_declined", "stolen_card", "Your card was declined: reported stolen."),
            Decline("expired_card", "expired_card", "Your card has expired."),
            Decline("incorrect_cvc", "incorrect_cvc", "Your card's security code is incorrect."),
            Decline("processing_error", "processing_error", "Processing the card went wrong."),
        )
    }
)

APPROVED = frozenset(
    f"pm_card_{name}"
    for name in (
        "visa",
        "visa_debit",
        "mastercard",
        "mastercard_debit",
        "mastercard_prepaid",
        "amex",
        "discover",
        "diners",
        "jcb",
        "unionpay",
    )
)

DISPUTED = frozenset({"pm_card_createDispute"})
"""Charged, and disputed at once as fraudulent."""

_DECLINED = {
    "chargeDeclined": "generic_decline",
    "chargeDeclinedInsufficientFunds": "insufficient_funds",
    "chargeDeclinedLostCard": "lost_card",
    "chargeDeclinedStolenCard": "stolen_card",
    "chargeDeclinedExpiredCard": "expired_card",
    "chargeDeclinedIncorrectCvc": "incorrect_cvc",
    "chargeDeclinedProcessingError": "processing_error",
    "authenticationRequired": "authentication_required",
    "threeDSecure2Required": "authentication_required",
    "threeDSecureRequired": "authentication_required",
}

# Stripe's pages spell these with the brand and without, and both work there.
DECLINED = MappingProxyType(
    {
        f"pm_card_{brand}{name}": decline_code
        for name, decline_code in _DECLINED.items()
        for brand in ("", "visa_")
    }
)


def is_known(payment_method: str) -> bool:
    """Tell whether Stripe has a test payment method of this name."""
    return payment_method in APPROVED | DISPUTED | DECLINED.keys()
