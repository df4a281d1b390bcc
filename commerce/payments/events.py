"""The gateway's events: believed only as a hint of which charge to ask about.

An event is signed (Stripe, "Verify webhook signatures manually", docs.stripe.com/webhooks): the
HMAC-SHA256 of the time and the raw body under a secret that only the gateway and we know. What it
says of amounts and states is read nowhere, since events come late, twice and in any order.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from uuid import UUID

import stripe
from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError

from commerce.payments.rules import PaymentState
from goodsyard.settings import Settings

TOLERANCE_SECONDS = 300
"""How far off the signature's time may be, either way: what was overheard is soon of no use."""

_TIME = re.compile(r"(?:^|,)t=(\d{1,12})(?:,|$)")
_CAPTURED = "payment_intent.succeeded"
_DECLINED = frozenset({"payment_intent.payment_failed", "payment_intent.canceled"})
_ALWAYS_ASK = ("charge.refund", "charge.dispute.", "refund.")


class EventSettings(Settings):
    """How the gateway's events are told from others."""

    gateway_webhook_secret: SecretStr | None = Field(
        default=None,
        description="Signs the gateway's events; several, with commas between, while one is being "
        "replaced. Without any, no event is believed.",
        examples=["whsec_SECRET"],
    )

    @property
    def webhook_secrets(self) -> list[str]:
        """The secrets, newest or oldest first as they were given."""
        secret = self.gateway_webhook_secret
        parts = secret.get_secret_value().split(",") if secret else []
        return [part.strip() for part in parts if part.strip()]


class BadSignatureError(Exception):
    """The event isn't the gateway's, or is too old; the message says which."""


class _Thing(BaseModel):
    """What we read of the object that an event is about: a PaymentIntent, a refund, a dispute."""

    id: str
    object: str = ""
    payment_intent: str | None = None
    metadata: dict[str, str] | None = None


class _Data(BaseModel):
    object: _Thing


class Event(BaseModel):
    """An event, as far as we look into it."""

    id: str = Field(min_length=1, max_length=255)
    type: str = Field(max_length=255)
    data: _Data

    @property
    def charge(self) -> str | None:
        """The gateway's name for the charge that it is about, if it is about one."""
        thing = self.data.object
        return thing.id if thing.object == "payment_intent" else thing.payment_intent

    @property
    def payment_id(self) -> UUID | None:
        """Our name for it, where it carries one: a hint as well."""
        try:
            return UUID((self.data.object.metadata or {}).get("payment_id", ""))
        except ValueError:
            return None

    def is_news(self, state: PaymentState, *, is_charging: bool) -> bool:
        """Whether the gateway may know what our books don't.

        Args:
            state: of the payment in our books.
            is_charging: its job is alive, and will come to know by itself.
        """
        if self.type.startswith(_ALWAYS_ASK):
            return True
        expected = {_CAPTURED: PaymentState.SUCCEEDED} | dict.fromkeys(
            _DECLINED, PaymentState.FAILED
        )
        if self.type not in expected or (state is PaymentState.PENDING and is_charging):
            return False
        return state is not expected[self.type]


_event = TypeAdapter(Event)


def read_event(raw: bytes, signature: str, secrets: Iterable[str]) -> Event | None:
    """Return a signed event; ``None`` for one whose object is none that we know.

    Args:
        raw: the body as it came, byte by byte.
        signature: the header ``Stripe-Signature``.
        secrets: any of which may have signed it.

    Raises:
        BadSignatureError: none of them has, or not within ``TOLERANCE_SECONDS``.
    """
    _verify(raw, signature, secrets)
    try:
        return _event.validate_json(raw)
    except ValidationError:
        # Signed, so it is the gateway's: of a kind that is none of our business.
        return None


def _verify(raw: bytes, signature: str, secrets: Iterable[str]) -> None:
    told = _TIME.search(signature)
    if told is None or abs(time.time() - int(told[1])) > TOLERANCE_SECONDS:
        raise BadSignatureError("there is no signature of the last five minutes")
    try:
        body = raw.decode()
    except UnicodeDecodeError as error:
        raise BadSignatureError("the body is not UTF-8") from error
    for secret in secrets:
        try:
            # Compares in constant time; it looks for a time that is too old only.
            if stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS):
                return
        except stripe.SignatureVerificationError:
            continue
    raise BadSignatureError("no secret of ours has signed it")
