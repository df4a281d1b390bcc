"""One call that took effect: a line of the journal, and the answer its key is remembered by."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from ops.sandbox.errors import server_error
from ops.sandbox.objects import PaymentIntent, Refund


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a call did and what it was answered.

    ``at`` is when it arrived, in Unix milliseconds; ``charged`` tells whether it tried to move the
    customer's money, successfully or not; ``intent`` and ``refund`` are as the call left them.
    """

    at: int
    key: str | None
    fingerprint: str
    status: HTTPStatus
    intent: PaymentIntent | None = None
    refund: Refund | None = None
    charged: bool = False

    @property
    def moved_money(self) -> bool:
        """Whether it charged, successfully or not, or gave back."""
        return self.charged or self.refund is not None

    def body(self) -> dict[str, object]:
        """Return the answer's JSON body: the same whenever it is asked for."""
        if self.status is HTTPStatus.INTERNAL_SERVER_ERROR:
            return server_error().body
        if self.refund is not None:
            return self.refund.as_stripe()
        if self.intent is None:
            raise ValueError(f"a call answered {self.status} is about an intent or a refund")
        if self.status is HTTPStatus.PAYMENT_REQUIRED:
            return self.intent.as_card_error()
        return self.intent.as_stripe()
