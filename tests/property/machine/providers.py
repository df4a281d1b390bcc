"""A payment gateway and a mail server that behave as theirs do, fail when told, and keep a log.

The gateway is behind the product's own client, in place of the network alone.
"""

from __future__ import annotations

import json
import re
from asyncio import CancelledError
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import NoReturn
from urllib.parse import parse_qsl, urlsplit

import stripe
from pydantic import EmailStr, HttpUrl, SecretStr, TypeAdapter

from commerce.notifications.mailer import MailAnswer, Mailer, MailSettings, NotSent, Sent, SmtpUrl
from commerce.payments.gateway import Gateway, GatewaySettings
from tests.property.machine.boundaries import Boundaries

GOOD, DECLINED = "pm_card_visa", "pm_card_chargeDeclined"

KEY_SECONDS = 24 * 3_600.0
"""How long Stripe remembers a key ("Idempotent requests", docs.stripe.com)."""

GATEWAY_FAULTS = ("refuse", "lose", "500", "stored 500", "409", "429")
MAIL_FAULTS = ("mail refused", "mail lost")

Reply = tuple[bytes, int, Mapping[str, str]]

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*<([^@>]+)@", re.MULTILINE | re.IGNORECASE)
_QUERY = re.compile(r"metadata\['payment_id'\]:'([^']+)'")


@dataclass(frozen=True)
class Money:
    """A movement of money that happened at the gateway."""

    id: str
    of: str
    """Our payment, or our refund."""
    amount: int
    created: float
    intent: str = ""
    """Of a refund: what it gives back of."""


@dataclass
class _Remembered:
    until: float
    request: object
    status: int
    body: object


@dataclass
class GatewayModel(stripe.HTTPClient):
    """Stripe's side of the connection."""

    boundaries: Boundaries
    now: Callable[[], float]
    faults: deque[str] = field(default_factory=deque)
    charges: list[Money] = field(default_factory=list)
    refunds: list[Money] = field(default_factory=list)
    late: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Requests on the wire whose sender is gone: they may still arrive."""
    wrong: list[str] = field(default_factory=list)
    _keys: dict[str, _Remembered] = field(default_factory=dict)
    _intents: dict[str, dict[str, object]] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)
    name = "model"

    def __post_init__(self) -> None:
        super().__init__()

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> Reply:
        """Answer a request, or don't."""
        address = urlsplit(url)
        if method == "get":
            return self._read(address.path, dict(parse_qsl(address.query)))
        request = address.path, headers["Idempotency-Key"], dict(parse_qsl(post_data or ""))
        try:
            await self.boundaries.stop("call")
        except CancelledError:
            self.late.append(request)
            raise
        fault = self.faults.popleft() if self.faults else ""
        reply = _FAULTY[fault]() if fault in _FAULTY else self._take_effect(*request, fault)
        await self.boundaries.stop("answer")
        if reply is None:
            raise stripe.APIConnectionError("no answer")  # type: ignore[no-untyped-call]  # theirs
        return reply

    async def sleep_async(self, secs: float) -> NoReturn:
        """Never: retries are rows."""
        raise AssertionError(f"it would have slept {secs} s")

    async def close_async(self) -> None:
        """Nothing is open."""

    def arrive(self, number: int) -> None:
        """Let a request arrive whose sender is gone."""
        self._take_effect(*self.late.pop(number))

    def _take_effect(
        self, path: str, key: str, wanted: dict[str, str], fault: str = ""
    ) -> Reply | None:
        known = self._keys.get(key)
        if known is not None and known.until > self.now():
            if known.request != wanted:
                self.wrong.append(f"key {key} came with {known.request}, then with {wanted}")
            return _reply(known.status, known.body, {"Idempotent-Replayed": "true"})
        if path == "/v1/payment_intents":
            status, body = self._charge(wanted)
        elif path == "/v1/refunds":
            status, body = self._refund(wanted)
        else:
            raise AssertionError(f"nobody should call {path}")
        if fault == "stored 500":
            status, body = 500, _error("api_error")
        self._keys[key] = _Remembered(self.now() + KEY_SECONDS, wanted, status, body)
        return None if fault == "lose" else _reply(status, body)

    def _charge(self, wanted: dict[str, str]) -> tuple[int, object]:
        payment, amount = wanted["metadata[payment_id]"], int(wanted["amount"])
        intent: dict[str, object] = {
            "id": f"pi_{next(self._numbers)}",
            "status": "succeeded",
            "amount": amount,
            "currency": wanted["currency"],
            "created": int(self.now()),
            "metadata": {"payment_id": payment},
        }
        self._intents[str(intent["id"])] = intent
        if wanted["payment_method"] == DECLINED:
            intent["status"] = "requires_payment_method"
            return 402, _error("card_error", decline_code="declined", payment_intent=intent)
        self.charges.append(Money(str(intent["id"]), payment, amount, self.now()))
        return 200, intent

    def _refund(self, wanted: dict[str, str]) -> tuple[int, object]:
        intent, amount = wanted["payment_intent"], int(wanted["amount"])
        charged = sum(charge.amount for charge in self.charges if charge.id == intent)
        given_back = sum(refund.amount for refund in self.refunds if refund.intent == intent)
        if given_back + amount > charged:
            return 400, _error("invalid_request_error", code="charge_already_refunded")
        refund = Money(
            f"re_{next(self._numbers)}", wanted["metadata[refund_id]"], amount, self.now(), intent
        )
        self.refunds.append(refund)
        return 200, self._as_refund(refund)

    def _as_refund(self, refund: Money) -> dict[str, object]:
        return {
            "id": refund.id,
            "status": "succeeded",
            "amount": refund.amount,
            "currency": self._intents[refund.intent]["currency"],
            "created": int(refund.created),
            "payment_intent": refund.intent,
            "metadata": {"refund_id": refund.of},
        }

    def _read(self, path: str, query: dict[str, str]) -> Reply:
        if path == "/v1/refunds":
            intent = query.get("payment_intent")
            refunds = [one for one in reversed(self.refunds) if intent in {None, one.intent}]
            return _reply(200, {"data": [self._as_refund(one) for one in refunds]})
        found = list(reversed(self._intents.values()))
        if path.endswith("/search"):
            asked = _QUERY.fullmatch(query["query"])
            assert asked is not None
            found = [one for one in found if one["metadata"] == {"payment_id": asked[1]}]
        return _reply(200, {"data": found, "has_more": False})


def _error(kind: str, **details: object) -> object:
    return {"error": {"type": kind, "message": kind, "code": kind} | details}


def _reply(status: int, body: object, headers: Mapping[str, str] | None = None) -> Reply:
    return json.dumps(body).encode(), status, headers or {}


_FAULTY: Mapping[str, Callable[[], Reply | None]] = {
    "refuse": lambda: None,
    "500": lambda: _reply(HTTPStatus.INTERNAL_SERVER_ERROR, _error("api_error")),
    "409": lambda: _reply(HTTPStatus.CONFLICT, _error("idempotency_error")),
    "429": lambda: _reply(HTTPStatus.TOO_MANY_REQUESTS, _error("rate_limit"), {"Retry-After": "7"}),
}
"""Answers without any effect."""


class ModelledGateway(Gateway):
    """The product's client, over the model instead of a network."""

    def __init__(self, model: GatewayModel) -> None:
        """Talk to ``model``."""
        address = "http://gateway.test"
        super().__init__(
            GatewaySettings(gateway_url=HttpUrl(address), gateway_key=SecretStr("sk_test_model"))
        )
        self._client = stripe.StripeClient(
            "sk_test_model",
            base_addresses={"api": address},
            http_client=model,
            max_network_retries=0,
        )


class MailerModel(Mailer):
    """Takes mails without a server, and counts each Message-ID."""

    def __init__(self, boundaries: Boundaries) -> None:
        """Stop at ``boundaries`` before and after a mail is taken."""
        super().__init__(
            MailSettings(
                smtp_url=TypeAdapter(SmtpUrl).validate_python("smtp://mail.test"),
                mail_from=TypeAdapter(EmailStr).validate_python("shop@example.com"),
            )
        )
        self._boundaries = boundaries
        self.faults: deque[str] = deque()
        self.sent: Counter[str] = Counter()

    async def send(self, to: str, mail: bytes) -> MailAnswer:
        """Take a mail, or not."""
        await self._boundaries.stop("mail")
        fault = self.faults.popleft() if self.faults else ""
        if fault != "mail refused":
            message_id = _MESSAGE_ID.search(mail)
            assert message_id is not None, f"a mail without a Message-ID: {mail!r}"
            self.sent[message_id[1].decode()] += 1
        await self._boundaries.stop("mailed")
        return NotSent("no answer") if fault else Sent()
