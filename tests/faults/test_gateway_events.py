"""However the gateway's events arrive, they book what happened there, once, and nothing else."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from ops.sandbox.events import signature
from tests.faults.conftest import System
from tests.harness.clients import at_once
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

SECRET = b"whsec_of_the_tests"
TIMES, SENDERS = 5, 8
BY_HAND = {"Authorization": "Bearer sk_test_by_hand"}
Thing = dict[str, Any]  # Any: JSON


@pytest.fixture
def gateway(system: System) -> Iterator[httpx.Client]:
    """The gateway, as its dashboard sees it."""
    with httpx.Client(base_url=system.cluster.gateway_url, headers=BY_HAND, timeout=10) as client:
        yield client


@pytest.fixture
def events_url(system: System) -> Iterator[str]:
    """Where an API takes events in."""
    api = system.cluster.api()
    api.until_ready()
    yield f"{api.url}/v1/gateway/events"
    api.stop()


def event(name: str, kind: str, thing: Thing) -> bytes:
    return json.dumps({"id": name, "type": kind, "data": {"object": thing}}).encode()


def signed(body: bytes, *, secret: bytes = SECRET, at: float = 0) -> tuple[bytes, str]:
    return body, signature(body, secret, int(time.time() + at))


@pytest.mark.row(number=28)
def test_events_that_come_five_times_reordered_forged_or_late_book_each_refund_once(
    shop: Shop, gateway: httpx.Client, events_url: str
) -> None:
    shop.order(40)
    shop.until_settled()
    paid = shop.rows(
        "SELECT id::text, gateway_id, amount FROM commerce.payment"
        " WHERE tenant = %(tenant)s AND state = 'succeeded' ORDER BY id"
    )
    parts = [1 + number % 3 for number in range(len(paid))]
    deliveries, forged = [], []
    for payment, times in zip(paid, parts, strict=True):
        intent = {"id": payment["gateway_id"], "object": "payment_intent"}
        told = [("payment_intent.succeeded", intent)]
        for _ in range(times):
            form = {"payment_intent": payment["gateway_id"], "amount": "100"}
            refund: Thing = gateway.post("/v1/refunds", data=form).raise_for_status().json()
            told += [("refund.created", refund), ("charge.refunded", refund)]
        for number, (kind, thing) in enumerate(told):
            body = event(f"evt_{payment['id']}_{number}", kind, thing)
            deliveries += [signed(body) for _ in range(TIMES)]
            lie = event(f"evt_{payment['id']}_{number}_lie", kind, {**thing, "amount": 10**6})
            forged += [signed(lie, secret=b"whsec_guessed"), signed(lie, at=-400)]
    everything = deliveries + forged[:50]  # more would be refused as too many
    random.Random(28).shuffle(everything)  # noqa: S311 - the same confusion every time

    def send(share: list[tuple[bytes, str]]) -> Counter[int]:
        with httpx.Client(timeout=30) as client:
            return Counter(
                client.post(
                    events_url, content=body, headers={"Stripe-Signature": header}
                ).status_code
                for body, header in share
            )

    shares = [everything[number::SENDERS] for number in range(SENDERS)]
    answers = sum(at_once([partial(send, share) for share in shares]), Counter())
    assert answers == {200: len(deliveries), 400: 50}

    def booked() -> list[int]:
        rows = shop.rows(
            "SELECT amount_refunded FROM commerce.payment"
            " WHERE tenant = %(tenant)s AND state = 'succeeded' ORDER BY id"
        )
        return [row["amount_refunded"] for row in rows]

    expected = [100 * times for times in parts]
    shop.until(lambda: booked() == expected, "the refunds to be booked", 60)
    shop.until(
        lambda: (
            shop.value(
                "SELECT count(*) FROM goodsyard.job WHERE tenant = %(tenant)s AND state <> 'dead'"
            )
            == 0
        ),
        "every hint to be followed",
        60,
    )
    assert booked() == expected
    assert shop.value(
        "SELECT sum(amount) FROM commerce.transfer"
        " WHERE tenant = %(tenant)s AND starts_with(code, 'refund:')"
    ) == sum(expected)
    assert_invariants(shop)
