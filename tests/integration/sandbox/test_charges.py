"""A charge is answered as Stripe answers it, and the log says what was charged."""

from __future__ import annotations

from itertools import islice

import pytest
import stripe

from tests.integration.sandbox.process import Sandbox


def test_a_confirmed_intent_is_one_line_of_the_charge_log(sandbox: Sandbox) -> None:
    intent = sandbox.pay(2050, "p1:charge", metadata={"payment": "p1"}, description="Order 7")
    assert (intent.status, intent.amount_received, intent.currency) == ("succeeded", 2050, "usd")
    assert intent.metadata["payment"] == "p1"
    (charge,) = sandbox.charges()
    at = charge.pop("at")
    assert charge == {
        "id": intent.latest_charge,
        "amount": 2050,
        "currency": "usd",
        "status": "succeeded",
        "idempotency_key": "p1:charge",
    }
    assert len(at) == len("2026-01-01T00:00:00.000Z")


@pytest.mark.parametrize(
    ("payment_method", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_authenticationRequired", "authentication_required", "authentication_required"),
    ],
)
def test_a_declined_card_is_a_card_error_with_its_intent_and_a_failed_charge(
    sandbox: Sandbox, payment_method: str, code: str, decline_code: str
) -> None:
    with pytest.raises(stripe.CardError) as caught:
        sandbox.pay(payment_method=payment_method)
    error = caught.value
    assert (error.http_status, error.code) == (402, code)
    assert error.error is not None
    assert error.error.decline_code == decline_code
    intent = error.error.payment_intent
    assert intent is not None
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error is not None
    assert intent.last_payment_error.decline_code == decline_code
    (charge,) = sandbox.charges()
    assert (charge["id"], charge["status"]) == (error.error.charge, "failed")


def test_a_customer_who_is_there_is_asked_to_authenticate_and_not_charged(sandbox: Sandbox) -> None:
    intent = sandbox.pay(payment_method="pm_card_authenticationRequired", off_session=False)
    assert intent.status == "requires_action"
    assert sandbox.charges() == []


def test_a_declined_intent_can_be_cancelled_and_a_paid_one_not(sandbox: Sandbox) -> None:
    with pytest.raises(stripe.CardError) as caught:
        sandbox.pay(key="declined", payment_method="pm_card_chargeDeclined")
    assert caught.value.error is not None
    assert caught.value.error.payment_intent is not None
    declined = caught.value.error.payment_intent.id
    intents = sandbox.stripe.v1.payment_intents
    assert intents.cancel(declined).status == "canceled"
    assert intents.retrieve(declined).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        intents.cancel(sandbox.pay(key="paid").id)
    assert refused.value.code == "payment_intent_unexpected_state"


def test_a_refund_gives_back_at_most_what_was_charged(sandbox: Sandbox) -> None:
    intent = sandbox.pay(1000)
    refunds = sandbox.stripe.v1.refunds
    part = refunds.create({"payment_intent": intent.id, "amount": 300})
    assert refunds.retrieve(part.id).amount == 300
    with pytest.raises(stripe.InvalidRequestError) as too_much:
        refunds.create({"payment_intent": intent.id, "amount": 701})
    assert too_much.value.param == "amount"
    assert refunds.create({"charge": str(intent.latest_charge)}).amount == 700
    with pytest.raises(stripe.InvalidRequestError) as again:
        refunds.create({"payment_intent": intent.id})
    assert again.value.code == "charge_already_refunded"


def test_the_list_of_intents_is_whole_and_newest_first_whatever_the_page(sandbox: Sandbox) -> None:
    made = [sandbox.pay(key=f"key-{number}").id for number in range(7)]
    listed = sandbox.stripe.v1.payment_intents.list({"limit": 3})
    newest = islice(listed.auto_paging_iter(), len(made))
    assert [intent.id for intent in newest] == made[::-1]


def test_a_call_that_stripe_would_refuse_is_refused_the_same_way(sandbox: Sandbox) -> None:
    for wrong, code, param in (
        ({"colour": "red"}, "parameter_unknown", "colour"),
        ({"amount": 0}, "parameter_invalid_integer", "amount"),
        ({"amount": 100_000_000}, "amount_too_large", "amount"),
        ({"currency": "dollars"}, "parameter_invalid", "currency"),
        ({"payment_method": "pm_card_unheard_of"}, "resource_missing", "payment_method"),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            sandbox.pay(**wrong)
        assert (refused.value.code, refused.value.param) == (code, param)
    with pytest.raises(stripe.InvalidRequestError) as missing:
        sandbox.stripe.v1.payment_intents.retrieve("pi_unheard_of")
    assert missing.value.http_status == 404
    assert sandbox.charges() == []


def test_nobody_charges_without_an_api_key(sandbox: Sandbox) -> None:
    answer = sandbox.http.post("/v1/payment_intents", data={"amount": "100", "currency": "usd"})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    basic = sandbox.http.get("/v1/payment_intents", auth=("sk_test_basic", ""))
    assert basic.status_code == 200
