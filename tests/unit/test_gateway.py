"""What the gateway's client makes of answers that no sandbox gives: they are scripted here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from uuid import UUID

import pytest
import stripe
from pydantic import HttpUrl, SecretStr

from commerce.payments.gateway import Gateway, GatewaySettings
from commerce.payments.rules import Captured, Declined, GatewayAnswer, Unclear

PAYMENT = UUID("01980000-0000-7000-8000-000000000000")
ADDRESS = "http://gateway.test"
LATE = (
    400,
    {"error": {"type": "invalid_request_error", "code": "payment_intent_unexpected_state"}},
)

Reply = tuple[int, Mapping[str, object]]


class Script(stripe.HTTPClient):
    """The network and the gateway behind it: the next reply to each address."""

    name = "script"

    def __init__(self, replies: Mapping[str, Reply]) -> None:
        super().__init__()
        self._replies = replies
        self.asked: list[str] = []

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        self.asked.append(f"{method} {url.removeprefix(ADDRESS)}")
        status, body = self._replies[self.asked[-1]]
        return json.dumps(body).encode(), status, {}


class Scripted(Gateway):
    """The product's client over a script."""

    def __init__(self, script: Script) -> None:
        settings = GatewaySettings(
            gateway_url=HttpUrl(ADDRESS), gateway_key=SecretStr("sk_test_script")
        )
        super().__init__(settings)
        self._client = stripe.StripeClient(
            "sk_test_script",
            base_addresses={"api": ADDRESS},
            http_client=script,
            max_network_retries=0,
        )


def intent(status: str) -> Reply:
    return 200, {"id": "pi_1", "status": status}


async def charge(cancelled: Reply, now: Reply = (404, {})) -> GatewayAnswer:
    """Charge a card that wants its holder, and return what comes of it."""
    script = Script(
        {
            "post /v1/payment_intents": intent("requires_action"),
            "post /v1/payment_intents/pi_1/cancel": cancelled,
            "get /v1/payment_intents/pi_1": now,
        }
    )
    return await Scripted(script).charge(PAYMENT, 1_499, "EUR", "pm_card_visa")


async def test_a_charge_that_wants_its_customer_is_called_off_and_declined() -> None:
    assert await charge(intent("canceled")) == Declined("authentication_required", "pi_1")


async def test_a_charge_that_succeeded_before_it_could_be_called_off_is_captured() -> None:
    assert await charge(LATE, now=intent("succeeded")) == Captured("pi_1")


async def test_a_charge_that_was_called_off_before_is_declined() -> None:
    assert await charge(LATE, now=intent("canceled")) == Declined("authentication_required", "pi_1")


@pytest.mark.parametrize("status", ["processing", "requires_action"])
async def test_a_charge_that_is_not_called_off_yet_is_neither_captured_nor_declined(
    status: str,
) -> None:
    assert isinstance(await charge(LATE, now=intent(status)), Unclear)


@pytest.mark.parametrize("now", [(404, {"error": {}}), (500, {"error": {}})])
async def test_a_charge_that_can_be_neither_called_off_nor_read_is_unclear(now: Reply) -> None:
    assert isinstance(await charge(LATE, now=now), Unclear)


@pytest.mark.parametrize("status", [404, 409, 429, 500])
async def test_a_cancel_that_failed_says_nothing_of_the_charge(status: int) -> None:
    failed = (status, {"error": {"type": "api_error"}})
    assert isinstance(await charge(failed, now=intent("canceled")), Unclear)
