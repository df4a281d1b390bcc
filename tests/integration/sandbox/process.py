"""A sandbox process as tests see it: through Stripe's client, a mailer and its own pages."""

from __future__ import annotations

import json
import signal
import smtplib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import stripe
from stripe.params import PaymentIntentCreateParams

START = """
import sys
from pathlib import Path
from ops.sandbox import EventTarget, main
events = EventTarget(*sys.argv[2:]) if sys.argv[2:] else None
main(0, 0, Path(sys.argv[1]), events=events)
"""


class Transport(stripe.HTTPClient):
    """Carries the calls of Stripe's client, so that a lost connection is its connection error."""

    name = "httpx"

    def __init__(self, http: httpx.Client) -> None:
        super().__init__()
        self._http = http

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: object = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        content = str(post_data) if post_data else None
        try:
            answer = self._http.request(method, url, headers=headers, content=content)
        except httpx.TransportError as lost:
            error = stripe.APIConnectionError(str(lost))  # type: ignore[no-untyped-call] # stripe's
            raise error from lost
        return answer.text, answer.status_code, answer.headers


class Sandbox:
    """A sandbox process, and its two faces: Stripe's client and the page of its own."""

    def __init__(self, folder: Path, *events: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(folder), *events], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        addresses = json.loads(self.process.stdout.readline())
        self.url: str = addresses["gateway"]
        self.smtp_port = urlsplit(addresses["smtp"]).port or 0
        self.http = httpx.Client(base_url=self.url, timeout=10)
        self._seen = {"charges": 0, "mails": 0}
        self.stripe = stripe.StripeClient(
            "sk_test_sandbox",
            base_addresses={"api": self.url},
            max_network_retries=0,
            http_client=Transport(self.http),
        )

    def pay(
        self, amount: int = 1499, key: str = "payment:charge", **more: object
    ) -> stripe.PaymentIntent:
        """Charge a card the way Goodsyard does."""
        params: dict[str, object] = {
            "amount": amount,
            "currency": "usd",
            "confirm": True,
            "off_session": True,
            "payment_method": "pm_card_visa",
            **more,
        }
        return self.stripe.v1.payment_intents.create(
            cast("PaymentIntentCreateParams", params), {"idempotency_key": key}
        )

    def charges(self) -> list[dict[str, Any]]:
        return self._log("charges")

    def mails(self) -> list[dict[str, Any]]:
        return self._log("mails")

    def turn_the_page(self) -> None:
        """Behave, and leave what was logged so far out of ``charges`` and ``mails``."""
        self.http.delete("/sandbox/faults")
        self.misbehave("forget_keys")
        for name in self._seen:
            self._seen[name] += len(self._log(name))

    def _log(self, name: str) -> list[dict[str, Any]]:
        page = self.http.get(f"/sandbox/{name}", params={"after": self._seen[name]})
        return list(page.json()["data"])

    def misbehave(self, fault: str, **more: float) -> None:
        assert self.http.post("/sandbox/faults", json={"fault": fault, **more}).is_success

    def mailer(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=10)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the process and return its exit status."""
        self.http.close()
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(10)


def response(intent: stripe.PaymentIntent) -> stripe.StripeResponse:
    assert isinstance(intent.last_response, stripe.StripeResponse)
    return intent.last_response
