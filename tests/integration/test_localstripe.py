"""The gateway's client speaks Stripe's API as others have built it, not only as our sandbox has.

The other side is localstripe, in a process of its own. It isn't all of Stripe: it has no
idempotency keys (a repeat charges again, which is why no test here repeats a charge), no search, no
disputes, lets more be refunded than was paid, asks for an authentication even off-session, and
refuses two parameters as unknown that Stripe has: those are left out on the way. It declines fewer
of the test cards than Stripe does, and keeps what it has in a file of one fixed name under /tmp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
import stripe
from pydantic import HttpUrl, SecretStr

from commerce.payments.gateway import Gateway, GatewaySettings
from commerce.payments.reconciliation import Period
from commerce.payments.rules import Captured, Declined
from goodsyard.job import new_id
from ops import children
from ops.children import Program
from ops.embedded.ports import LOOPBACK, free_port
from tests.processes import wait_until

KEY = "sk_test_of_localstripe"
DECLINED = "pm_card_chargeCustomerFail"  # the one name that it declines at a charge
UNKNOWN_THERE = ("automatic_payment_methods[", "cancellation_reason")


@pytest.fixture(scope="module")
def localstripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Have a localstripe for a while; it ends with us, however we end."""
    folder, port = tmp_path_factory.mktemp("localstripe"), free_port()
    program = Program(
        name="localstripe",
        command=(sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"),
        environment={**os.environ, "PYTHONUNBUFFERED": "1"},
        folder=folder,
    )
    process = children.spawn(program, folder / "localstripe.log")
    url = f"http://{LOOPBACK}:{port}"
    try:
        wait_until(lambda: _answers(url), "localstripe to answer", 30)
        yield url
    finally:
        children.stop(process, program)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/refunds", auth=(KEY, "")).is_success
    except httpx.TransportError:
        return False


class Translated(stripe.HTTPClient):
    """Carries the client's calls, less the parameters that localstripe doesn't know."""

    name = "httpx"

    def __init__(self) -> None:
        super().__init__()
        self._http = httpx.AsyncClient(timeout=10)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        pairs = parse_qsl(post_data or "")
        known = urlencode([pair for pair in pairs if not pair[0].startswith(UNKNOWN_THERE)])
        answer = await self._http.request(method, url, headers=headers, content=known)
        return answer.content, answer.status_code, answer.headers

    async def close_async(self) -> None:
        await self._http.aclose()


class OverTranslated(Gateway):
    """The product's client over that transport."""

    def __init__(self, url: str) -> None:
        super().__init__(GatewaySettings(gateway_url=HttpUrl(url), gateway_key=SecretStr(KEY)))
        self.transport = Translated()
        self._client = stripe.StripeClient(
            KEY,
            base_addresses={"api": url},
            http_client=self.transport,
            max_network_retries=0,
        )


@pytest.fixture
async def gateway(localstripe: str) -> AsyncIterator[OverTranslated]:
    opened = OverTranslated(localstripe)
    yield opened
    await opened.transport.close_async()


async def test_a_charge_is_captured_and_found_again_by_our_payments_id(
    gateway: OverTranslated,
) -> None:
    payment = new_id()
    answer = await gateway.charge(payment, 1_499, "EUR", "pm_card_visa")
    assert isinstance(answer, Captured), answer
    await gateway.charge(new_id(), 1, "EUR", "pm_card_visa")
    assert await gateway.find_charge(payment) == answer
    assert await gateway.find_charge(new_id()) is None


async def test_a_declined_card_is_a_definite_no(gateway: OverTranslated) -> None:
    payment = new_id()
    answer = await gateway.charge(payment, 1_499, "EUR", DECLINED)
    assert isinstance(answer, Declined), answer
    assert answer.code == "card_declined"
    assert isinstance(await gateway.find_charge(payment), Declined)


async def test_a_charge_is_given_back_in_parts_and_as_a_whole(gateway: OverTranslated) -> None:
    charged = await gateway.charge(new_id(), 1_499, "EUR", "pm_card_visa")
    assert isinstance(charged, Captured)
    part = new_id()
    refunded = await gateway.refund(part, charged.gateway_id, 500)
    assert isinstance(refunded, Captured), refunded
    assert await gateway.find_refund(part, charged.gateway_id) == refunded
    assert await gateway.find_refund(new_id(), charged.gateway_id) is None
    assert isinstance(await gateway.refund(new_id(), charged.gateway_id, 999), Captured)
    sight = await gateway.look(charged.gateway_id)
    assert (sight.answer, sight.charge.amount) == (charged, 1_499)
    assert sorted(refund.amount for refund in sight.refunds) == [500, 999]


async def test_a_refund_of_what_was_never_charged_is_a_definite_no(
    gateway: OverTranslated,
) -> None:
    declined = await gateway.charge(new_id(), 1_499, "EUR", DECLINED)
    assert isinstance(declined, Declined)
    (failed,) = [
        charge
        for charge in await _intents(gateway)
        if charge["status"] == "requires_payment_method"
    ][:1]
    answer = await gateway.refund(new_id(), str(failed["id"]), 1_499)
    assert isinstance(answer, Declined), answer


async def _intents(gateway: OverTranslated) -> list[dict[str, object]]:
    answer = await gateway._client.raw_request_async("get", "/v1/payment_intents", limit=100)  # noqa: SLF001 - reads what the client has no call for
    found: list[dict[str, object]] = answer.data["data"]
    return found


async def test_a_card_that_wants_its_holder_is_called_off_and_declined(
    gateway: OverTranslated, localstripe: str
) -> None:
    async with httpx.AsyncClient(base_url=localstripe, auth=(KEY, "")) as http:
        card = {
            "type": "card",
            "card[number]": "4000002500003155",
            "card[exp_month]": "12",
            "card[exp_year]": "2040",
            "card[cvc]": "123",
        }
        method = (await http.post("/v1/payment_methods", data=card)).json()["id"]
        payment = new_id()
        answer = await gateway.charge(payment, 1_499, "EUR", method)
        assert isinstance(answer, Declined), answer
        assert answer.code == "authentication_required"
        intent = (await http.get(f"/v1/payment_intents/{answer.gateway_id}")).json()
    assert intent["status"] == "canceled"


async def test_a_statement_has_what_was_captured_and_given_back(gateway: OverTranslated) -> None:
    payment, refund = new_id(), new_id()
    charged = await gateway.charge(payment, 2_000, "EUR", "pm_card_visa")
    assert isinstance(charged, Captured)
    await gateway.refund(refund, charged.gateway_id, 700)
    now = datetime.now(UTC)
    statement = await gateway.statement(Period(now - timedelta(hours=1), now))
    assert [
        (c.gateway_id, c.amount) for c in statement.charges if c.payment_id == str(payment)
    ] == [(charged.gateway_id, 2_000)]
    assert [r.amount for r in statement.refunds if r.refund_id == str(refund)] == [700]
