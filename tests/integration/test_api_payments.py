"""Payments over HTTP: charged once without an order, followed, given back once, told in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from commerce.money import MAX_AMOUNT
from tasks.contracts import ChargePayment
from tests.integration.conftest import Api
from tests.integration.till import Till, open_till
from tests.saga import DECLINED, Booking, Sandbox

CAPTURE = Booking("gateway", "sales", 1_499, "capture")


@pytest.fixture
async def till(api: Api, redis_url: str, sandbox: Sandbox) -> AsyncIterator[Till]:
    async with open_till(api, redis_url, sandbox) as opened:
        yield opened


async def test_a_charge_without_an_order_is_captured_and_booked(till: Till) -> None:
    answer = await till.post("/v1/payments", till.bill(description="Ten lessons"))
    assert answer.status_code == 202, answer.text
    payment, job = answer.json()["payment"], answer.json()["job"]
    assert answer.headers["Location"] == payment["href"] == f"/v1/payments/{payment['id']}"
    assert (payment["status"], payment["order_id"], job["state"]) == ("pending", None, "waiting")
    await till.saga.finish()
    now = await till.get(payment["href"])
    assert (now["status"], now["reason"], now["description"]) == ("succeeded", None, "Ten lessons")
    assert now["amount"] == {"amount": 1_499, "currency": "EUR"}
    assert await till.saga.ledger() == [CAPTURE]
    assert len(await till.saga.charges()) == 1


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (DECLINED, "generic_decline"),
        ("pm_card_authenticationRequired", "authentication_required"),
        ("pm_unheard_of", "resource_missing"),
    ],
)
async def test_a_charge_that_is_declined_says_why_and_moves_nothing(
    till: Till, card: str, reason: str
) -> None:
    payment = await till.charged(payment_method=card)
    assert (payment["status"], payment["reason"]) == ("failed", reason)
    assert await till.saga.ledger() == []


async def test_of_equal_charges_at_once_one_is_made(till: Till) -> None:
    answers = await asyncio.gather(
        *(till.post("/v1/payments", till.bill(), "the same") for _ in range(50))
    )
    assert {answer.status_code for answer in answers} <= {202, 409}
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.json()["payment"]["id"] for answer in accepted}) == 1
    await till.saga.finish()
    again = await till.post("/v1/payments", till.bill(), "the same")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["payment"]["status"] == "succeeded", "as it is now"
    assert len(await till.saga.charges()) == 1
    other = await till.post("/v1/payments", till.bill(amount=1), "the same")
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")


async def test_a_bad_charge_is_told_where(till: Till) -> None:
    for change, pointer in (
        ({"amount": 0}, "#/amount"),
        ({"amount": 1.0}, "#/amount"),
        ({"amount": True}, "#/amount"),
        ({"amount": MAX_AMOUNT + 1}, "#/amount"),
        ({"currency": "eur"}, "#/currency"),
        ({"payment_method": ""}, "#/payment_method"),
        ({"description": "bell\a"}, "#/description"),
        ({"user_id": "0198a6b0-0000-7000-8000-000000000000"}, "#/user_id"),
        ({"metadata": {}}, "#/metadata"),
    ):
        answer = await till.post("/v1/payments", till.bill(**change))
        assert answer.status_code == 422, change
        assert answer.json()["errors"][0]["pointer"] == pointer
    bare = await till.api.http.post("/v1/payments", json=till.bill(), headers=dict(till.caller))
    assert bare.json()["type"] == "/problems/idempotency-key-required"
    assert await till.saga.live_jobs() == []


async def test_a_payment_is_given_back_in_parts_and_each_part_once(till: Till) -> None:
    payment = await till.charged()
    refund = f"{payment['href']}/refund"
    first = await till.post(refund, {"amount": 500}, "first")
    assert (first.status_code, first.json()["job"]["state"]) == (202, "waiting")
    await till.saga.finish()
    again = await till.post(refund, {"amount": 500}, "first")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["job"] == {**first.json()["job"], "state": "succeeded"}
    too_much = await till.post(refund, {"amount": 1_000})
    assert (too_much.status_code, too_much.json()["type"]) == (409, "/problems/payment-state")
    assert "999 can still be refunded" in too_much.json()["detail"]
    assert (await till.post(refund, None)).status_code == 202
    await till.saga.finish()
    assert (await till.get(payment["href"]))["amount_refunded"]["amount"] == 1_499
    back = [Booking("sales", "gateway", amount, "refund") for amount in (500, 999)]
    assert await till.saga.ledger() == [CAPTURE, *back]


async def test_refunds_asked_for_at_once_never_come_to_more_than_was_paid(till: Till) -> None:
    payment = await till.charged()
    refund = f"{payment['href']}/refund"
    answers = await asyncio.gather(*(till.post(refund, {"amount": 400}) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [409] * 7
    await till.saga.finish()
    assert (await till.get(payment["href"]))["amount_refunded"]["amount"] == 1_200


async def test_what_was_not_captured_is_not_given_back(till: Till) -> None:
    answer = await till.post("/v1/payments", till.bill(payment_method=DECLINED))
    refund = f"{answer.json()['payment']['href']}/refund"
    pending = await till.post(refund, None)
    assert (pending.status_code, pending.json()["detail"]) == (
        409,
        "The payment is pending: nothing to refund.",
    )
    await till.saga.finish()
    assert "is failed" in (await till.post(refund, None)).json()["detail"]


async def test_the_payment_of_an_order_is_shown_and_given_back_with_it(till: Till) -> None:
    await till.saga.put_in_stock(CD=5)
    order = await till.saga.order()
    await till.saga.finish()
    (payment,) = (await till.get(f"/v1/payments?order_id={order}"))["data"]
    assert payment == await till.get(payment["href"])
    assert (payment["order_id"], payment["status"]) == (str(order), "succeeded")
    assert (await till.post(f"{payment['href']}/refund", None)).status_code == 202
    await till.saga.finish()
    assert await till.saga.status(order) == "refunded"


async def test_a_payment_that_a_dead_job_keeps_says_so_at_once(till: Till) -> None:
    payment = (await till.post("/v1/payments", till.bill())).json()["payment"]
    await till.saga.yard.sql("UPDATE goodsyard.job SET state = 'dead', reason = 'attempts'")
    blocked = await till.get(f"{payment['href']}?wait=30")
    assert blocked["status"] == "pending"
    assert blocked["blocked_by"]["kind"] == ChargePayment.kind


async def test_who_waits_for_a_payment_hears_of_its_end(till: Till) -> None:
    payment = (await till.post("/v1/payments", till.bill())).json()["payment"]
    waiting = asyncio.create_task(till.get(f"{payment['href']}?wait=30"))
    await till.saga.finish()
    assert (await waiting)["status"] == "succeeded"


async def test_another_tenants_payment_is_not_there(till: Till) -> None:
    payment = await till.charged()
    other = await till.api.caller("admin", tenant="elsewhere")
    assert (await till.api.http.get(payment["href"], headers=other)).status_code == 404
    refund = await till.api.http.post(
        f"{payment['href']}/refund", headers={**other, "Idempotency-Key": "theirs"}
    )
    assert refund.status_code == 404
    theirs = await till.api.http.post(
        "/v1/payments", json=till.bill(), headers={**other, "Idempotency-Key": "theirs"}
    )
    assert (theirs.status_code, theirs.json()["errors"][0]["pointer"]) == (422, "#/user_id")


async def test_only_who_may_charge_does(till: Till) -> None:
    reader = await till.api.caller("payments:read", tenant=f"shop of {till.saga.email}")
    answer = await till.api.http.post(
        "/v1/payments", json=till.bill(), headers={**reader, "Idempotency-Key": "hopeful"}
    )
    assert (answer.status_code, answer.json()["scope"]) == (403, "payments:write")
