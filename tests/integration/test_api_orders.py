"""Orders over HTTP: accepted once, refused in words, replayed, followed, called off."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from commerce.money import MAX_AMOUNT
from tests.integration.conftest import Api, order_for

ROUNDS, AT_ONCE = 5, 50


async def _count(api: Api, table: str) -> int:
    async with api.sessions.begin() as tx:
        found: int = await tx.scalar(text(f"SELECT count(*) FROM {table}"))  # noqa: S608 - ours
        return found


@pytest.mark.live
async def test_an_accepted_order_is_answered_with_its_job_and_its_place(api: Api) -> None:
    user = await api.user()
    answer = await api.submit(order_for(user, metadata={"cart": [1, 2]}))
    assert answer.status_code == 202, answer.text
    order, job = answer.json()["order"], answer.json()["job"]
    assert answer.headers["Location"] == order["href"] == f"/v1/orders/{order['id']}"
    assert order["status"] == "pending"
    assert order["total"] == {"amount": 2_500, "currency": "EUR"}
    assert job == {"id": job["id"], "state": "waiting", "href": f"/v1/jobs/{job['id']}"}
    assert (await api.http.get(order["href"])).json() == order
    shown = (await api.http.get(job["href"])).json()
    assert (shown["kind"], shown["subject"]) == ("orders.process", order["id"])


@pytest.mark.live
async def test_of_equal_submits_at_once_one_creates_an_order(api: Api) -> None:
    order = order_for(await api.user())
    for number in range(ROUNDS):
        answers = await asyncio.gather(
            *(api.submit(order, f"round-{number}") for _ in range(AT_ONCE))
        )
        assert {answer.status_code for answer in answers} <= {202, 409}
        accepted = [answer for answer in answers if answer.status_code == 202]
        assert len({answer.json()["order"]["id"] for answer in accepted}) == 1
        assert sum("Idempotent-Replayed" not in answer.headers for answer in accepted) == 1
        for answer in answers:
            if answer.status_code == 409:
                assert answer.headers["Retry-After"] == "1"
    assert await _count(api, "commerce.orders") == ROUNDS
    assert await _count(api, "goodsyard.job") == ROUNDS


@pytest.mark.live
async def test_a_replay_shows_the_same_order_as_it_is_now(api: Api) -> None:
    order = order_for(await api.user())
    first = (await api.submit(order, "once")).json()
    async with api.sessions.begin() as tx:
        await tx.execute(text("UPDATE commerce.orders SET status = 'paid'"))
    again = await api.submit(order, '"once"')  # quoted, as in the draft: the same key
    assert again.status_code == 202
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["order"]["id"] == first["order"]["id"]
    assert again.json()["job"]["id"] == first["job"]["id"]
    assert again.json()["order"]["status"] == "paid"


async def test_a_key_belongs_to_one_body_whatever_the_order_of_its_members(api: Api) -> None:
    order = order_for(await api.user())
    assert (await api.submit(order, "once")).status_code == 202
    turned = dict(reversed(list(order.items())))
    assert (await api.submit(turned, "once")).headers["Idempotent-Replayed"] == "true"
    other = await api.submit({**order, "currency": "USD"}, "once")
    assert other.status_code == 422
    assert other.json()["type"] == "/problems/idempotency-key-reused"
    assert await _count(api, "commerce.orders") == 1


async def test_a_key_is_of_use_to_each_tenant(api: Api) -> None:
    assert (await api.submit(order_for(await api.user()), "shared")).status_code == 202
    other = await api.caller("admin", tenant="elsewhere")
    body = {"email": "a@example.com", "username": "a"}
    user = (await api.http.post("/v1/users", json=body, headers=other)).json()["id"]
    answer = await api.http.post(
        "/v1/orders", json=order_for(user), headers=other | {"Idempotency-Key": "shared"}
    )
    assert answer.status_code == 202
    assert "Idempotent-Replayed" not in answer.headers


@pytest.mark.live
async def test_an_order_without_a_good_key_is_refused(api: Api) -> None:
    order = order_for(await api.user())
    for key in (None, b"", b"x" * 256, "schlüssel".encode(), b"tab\there"):
        headers = [] if key is None else [(b"Idempotency-Key", key)]
        answer = await api.http.post("/v1/orders", json=order, headers=headers)
        assert answer.status_code == 400, key
        assert answer.json()["type"] == "/problems/idempotency-key-required"


def _line(**fields: object) -> dict[str, Any]:
    return {"lines": [{"sku": "CD", "quantity": 1, "unit_amount": 100, **fields}]}


BAD = [
    (_line(quantity=0), "#/lines/0/quantity"),
    (_line(quantity="2"), "#/lines/0/quantity"),
    (_line(quantity=True), "#/lines/0/quantity"),
    (_line(quantity=2.0), "#/lines/0/quantity"),
    (_line(quantity=10**30), "#/lines/0/quantity"),
    (_line(unit_amount=-1), "#/lines/0/unit_amount"),
    (_line(unit_amount=MAX_AMOUNT + 1), "#/lines/0/unit_amount"),
    (_line(sku="two words"), "#/lines/0/sku"),
    (_line(sku="nul\0"), "#/lines/0/sku"),
    (_line(colour="red"), "#/lines/0/colour"),
    (_line(quantity=2, unit_amount=MAX_AMOUNT), "#/lines"),
    ({"lines": []}, "#/lines"),
    ({"lines": [{"sku": "CD", "quantity": 1, "unit_amount": 1}] * 101}, "#/lines"),
    ({"currency": "euro"}, "#/currency"),
    ({"user_id": "42"}, "#/user_id"),
    ({"user_id": "0198a6b0-0000-7000-8000-000000000000"}, "#/user_id"),
    ({"payment_method": ""}, "#/payment_method"),
    ({"metadata": [1]}, "#/metadata"),
    ({"metadata": {"note": "nul\0"}}, "#/metadata/note"),
    ({"metadata": {"half": "\ud800"}}, "#/metadata/half"),
    ({"met/a~data": 1}, "#/met~1a~0data"),
]


@pytest.mark.live
async def test_a_bad_order_is_told_where_and_keeps_its_key(api: Api) -> None:
    good = order_for(await api.user())
    for number, (change, pointer) in enumerate(BAD):
        answer = await api.submit(good | change, f"kept-{number}")
        assert answer.status_code == 422, (change, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["type"] == "/problems/validation"
        assert pointer in [error["pointer"] for error in answer.json()["errors"]], answer.text
        again = await api.submit(good, f"kept-{number}")
        assert (again.status_code, "Idempotent-Replayed" in again.headers) == (202, False), change


async def test_metadata_may_not_be_nested_without_end(api: Api) -> None:
    user = await api.user()
    for depth in (30, 300, 900):
        nested: dict[str, Any] = {}
        for _ in range(depth):
            nested = {"in": nested}
        answer = await api.submit(order_for(user, metadata=nested))
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "#/metadata"


async def test_another_tenants_user_cannot_be_ordered_for(api: Api) -> None:
    other = await api.caller("admin", tenant="elsewhere")
    order = order_for(await api.user())
    answer = await api.http.post(
        "/v1/orders", json=order, headers=other | {"Idempotency-Key": "mine"}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/user_id"


@pytest.mark.live
async def test_another_tenants_order_is_not_there(api: Api) -> None:
    order = (await api.submit(order_for(await api.user()))).json()["order"]
    other = await api.caller("admin", tenant="elsewhere")
    assert (await api.http.get(order["href"], headers=other)).status_code == 404
    assert (await api.http.get("/v1/orders", headers=other)).json()["data"] == []
    cancel = await api.http.post(f"{order['href']}/cancel", headers=other)
    assert cancel.status_code == 404
    assert (await api.http.get("/v1/orders/not-an-id")).status_code == 404


async def test_an_order_carries_the_callers_trace(api: Api) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"Idempotency-Key": "traced", "traceparent": trace}
    answer = await api.http.post("/v1/orders", json=order_for(await api.user()), headers=headers)
    job = await api.http.get(answer.json()["job"]["href"])
    assert job.json()["trace_context"] == trace


async def test_lists_are_read_to_their_end_while_orders_come_in(api: Api) -> None:
    user = await api.user()
    ids = [(await api.submit(order_for(user))).json()["order"]["id"] for _ in range(5)]
    page = (await api.http.get("/v1/orders", params={"limit": 2, "user_id": user})).json()
    seen = page["data"]
    await api.submit(order_for(user))
    while page["next_cursor"]:
        params = {"limit": 2, "user_id": user, "cursor": page["next_cursor"]}
        page = (await api.http.get("/v1/orders", params=params)).json()
        seen += page["data"]
    assert [order["id"] for order in seen] == ids[::-1]
    assert all(order["lines"] for order in seen)


async def test_lists_are_filtered(api: Api) -> None:
    first, second = await api.user(), await api.user()
    one = (await api.submit(order_for(first))).json()["order"]
    await api.submit(order_for(second))
    async with api.sessions.begin() as tx:
        paid = "UPDATE commerce.orders SET status = 'paid' WHERE id = :id"
        await tx.execute(text(paid), {"id": UUID(one["id"])})

    async def ids(**params: str) -> list[str]:
        answer = await api.http.get("/v1/orders", params=params)
        return [order["id"] for order in answer.json()["data"]]

    assert await ids(status="paid") == [one["id"]]
    assert await ids(user_id=first) == [one["id"]]
    assert await ids(user_id=second, status="paid") == []
    for bad in ({"status": "lost"}, {"limit": "0"}, {"cursor": "x"}, {"user_id": "x\0"}):
        answer = await api.http.get("/v1/orders", params=bad)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["parameter"] == next(iter(bad))


@pytest.mark.live
async def test_a_pending_order_is_cancelled_at_once_and_its_job_with_it(api: Api) -> None:
    accepted = (await api.submit(order_for(await api.user()))).json()
    href = accepted["order"]["href"]
    answer = await api.http.post(f"{href}/cancel", headers={"Idempotency-Key": "off"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["order"]["status"] == "cancelled"
    assert (await api.http.get(accepted["job"]["href"])).json()["state"] == "cancelled"
    again = await api.http.post(f"{href}/cancel", headers={"Idempotency-Key": "off"})
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    refused = await api.http.post(f"{href}/cancel")
    assert refused.status_code == 409
    assert refused.json()["type"] == "/problems/order-state"


@pytest.mark.live
async def test_what_was_not_paid_is_not_refunded(api: Api) -> None:
    order = (await api.submit(order_for(await api.user()))).json()["order"]
    refund = f"{order['href']}/refund"
    assert (await api.http.post(refund)).status_code == 400  # no key
    for body in (None, {}, {"amount": 100}):
        answer = await api.http.post(refund, json=body, headers={"Idempotency-Key": "back"})
        assert answer.status_code == 409, answer.text
        assert answer.json()["type"] == "/problems/order-state"
    bad = await api.http.post(refund, json={"amount": 0}, headers={"Idempotency-Key": "back"})
    assert bad.json()["errors"][0]["pointer"] == "#/amount"


async def test_an_equal_request_in_flight_is_waited_for_a_moment_only(api: Api) -> None:
    order = order_for(await api.user())
    async with api.sessions.begin() as elsewhere:
        claim = (
            "INSERT INTO goodsyard.request_key (tenant, key, hash, resource)"
            " SELECT id, 'held', '', '{}' FROM commerce.tenant WHERE name = 'shop'"
        )
        await elsewhere.execute(text(claim))
        started = time.monotonic()
        answer = await api.submit(order, "held")
        assert 0.25 <= time.monotonic() - started < 2
        await elsewhere.rollback()
    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "1")
    assert answer.json()["type"] == "/problems/request-in-flight"
    assert (await api.submit(order, "held")).status_code == 202
