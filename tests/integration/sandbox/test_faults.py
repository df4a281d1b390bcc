"""The sandbox misbehaves exactly as told, and its log stays true meanwhile."""

from __future__ import annotations

from typing import get_args

import pytest
import stripe

from ops.sandbox.faults import Fault
from tests.integration.sandbox.process import Sandbox


def test_429_says_when_to_come_back(sandbox: Sandbox) -> None:
    sandbox.misbehave("429", seconds=7)
    with pytest.raises(stripe.RateLimitError) as limited:
        sandbox.pay()
    assert limited.value.headers is not None
    assert limited.value.headers["retry-after"] == "7"
    assert sandbox.pay().status == "succeeded"


def test_a_500_before_the_call_began_is_forgotten(sandbox: Sandbox) -> None:
    sandbox.misbehave("500", count=2)
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            sandbox.pay()
    assert sandbox.pay().status == "succeeded"
    assert len(sandbox.charges()) == 1


def test_a_stored_500_is_replayed_for_ever(sandbox: Sandbox) -> None:
    sandbox.misbehave("stored_500")
    replayed = []
    for _ in range(3):
        with pytest.raises(stripe.APIError) as broken:
            sandbox.pay()
        assert broken.value.http_status == 500
        replayed.append((broken.value.headers or {}).get("idempotent-replayed"))
    assert replayed == [None, "true", "true"]
    assert sandbox.charges() == []


def test_a_charge_behind_a_500_is_found_by_looking_it_up(sandbox: Sandbox) -> None:
    sandbox.misbehave("charge_then_500")
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            sandbox.pay(metadata={"payment": "p1"})
    (intent,) = sandbox.stripe.v1.payment_intents.list({"limit": 1}).data
    assert (intent.status, intent.metadata["payment"]) == ("succeeded", "p1")
    assert len(sandbox.charges()) == 1


def test_a_charge_whose_answer_was_lost_is_told_to_the_next_call_with_its_key(
    sandbox: Sandbox,
) -> None:
    sandbox.misbehave("charge_then_drop")
    with pytest.raises(stripe.APIConnectionError):
        sandbox.pay()
    (charge,) = sandbox.charges()
    assert sandbox.pay().latest_charge == charge["id"]
    assert len(sandbox.charges()) == 1


def test_a_decline_can_be_ordered_for_any_card(sandbox: Sandbox) -> None:
    sandbox.misbehave("decline")
    with pytest.raises(stripe.CardError):
        sandbox.pay(key="first")
    assert sandbox.pay(key="second").status == "succeeded"


def test_latency_delays_the_effect_and_not_the_time_of_arrival(sandbox: Sandbox) -> None:
    sandbox.misbehave("latency", seconds=0.3)
    slow = sandbox.http.post(
        "/v1/payment_intents",
        data={"amount": "100", "currency": "usd"},
        headers={"Authorization": "Bearer sk_test"},
    )
    assert slow.elapsed.total_seconds() >= 0.3


def test_a_forgotten_key_charges_again(sandbox: Sandbox) -> None:
    sandbox.pay()
    sandbox.misbehave("forget_keys")
    sandbox.pay()
    assert [charge["idempotency_key"] for charge in sandbox.charges()] == ["payment:charge"] * 2


def test_faults_can_be_called_off(sandbox: Sandbox) -> None:
    sandbox.misbehave("decline", count=9)
    assert sandbox.http.delete("/sandbox/faults").status_code == 204
    assert sandbox.pay().status == "succeeded"


@pytest.mark.parametrize(
    ("order", "pointer"),
    [
        ({"fault": "explode"}, "#/fault"),
        ({"fault": "decline", "count": 0}, "#/count"),
        ({"fault": "hang", "seconds": "long"}, "#/seconds"),
        ({"fault": "decline", "times": 3}, "#/times"),
    ],
)
def test_an_order_to_misbehave_that_makes_no_sense_is_refused_by_name(
    sandbox: Sandbox, order: dict[str, object], pointer: str
) -> None:
    answer = sandbox.http.post("/sandbox/faults", json=order)
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["pointer"] == pointer
    if pointer == "#/fault":
        assert all(fault in problem["detail"] for fault in get_args(Fault))
