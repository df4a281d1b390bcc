"""Whoever listens is told of each thing once, in the commit that makes it true, and of no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from commerce.orders.rules import Line
from goodsyard.interventions import Actor, retry_job
from tasks.cancellation import cancel_order, refund_order
from tasks.contracts import ChargePayment, ProcessOrder, SendWebhook
from tests.receivers import Endpoint, listen, register
from tests.saga import DECLINED, Saga

NOWHERE = "https://receiver.example/"

PAID = ["order.paid", "order.reserved", "payment.succeeded"]


async def finish(saga: Saga) -> None:
    """Let the orders come to their end; what is told of them stays where it is."""
    for _ in range(3):
        for kind in (ProcessOrder.kind, ChargePayment.kind, "payments.refund"):
            await saga.deliver(kind)


async def payloads(endpoint: Endpoint) -> dict[str, dict[str, Any]]:
    rows = await endpoint.saga.yard.sql(
        "SELECT payload FROM goodsyard.job WHERE subject = :id ORDER BY id", id=endpoint.id
    )
    return {payload["event"]: payload for (payload,) in rows}


async def test_an_order_tells_of_each_step_once(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    endpoint = await register(saga, NOWHERE)
    order = await saga.order()
    await finish(saga)
    told = await payloads(endpoint)
    assert await endpoint.events() == PAID
    payment, _ = await saga.payment_of(order)
    eur = {"amount": 1_499, "currency": "EUR"}
    assert told["order.paid"]["data"] == {
        "id": str(order), "status": "paid", "reason": None, "user_id": str(saga.user),
        "total": eur, "amount_refunded": 0,
    }  # fmt: skip
    assert told["payment.succeeded"]["data"] == {
        "id": str(payment), "status": "succeeded", "failure": None, "order_id": str(order),
        "user_id": str(saga.user), "amount": eur, "amount_refunded": 0,
    }  # fmt: skip
    for payload in told.values():
        SendWebhook.model_validate(payload)
        assert saga.email not in str(payload)


async def test_a_free_order_is_paid_at_once(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    endpoint = await register(saga, NOWHERE)
    await saga.order(Line("CD", 1, 0))
    await finish(saga)
    assert await endpoint.events() == ["order.paid"]


async def test_what_fails_is_told_with_its_reason(saga: Saga) -> None:
    await saga.put_in_stock(CD=1)
    endpoint = await register(saga, NOWHERE)
    await saga.order(card=DECLINED)
    await finish(saga)
    await saga.order(Line("CD", 9, 100))
    await finish(saga)
    told = await payloads(endpoint)
    assert sorted(told) == [
        "order.payment_failed", "order.rejected", "order.reserved", "payment.failed",
    ]  # fmt: skip
    assert told["order.rejected"]["data"]["reason"] == "out_of_stock"
    assert (
        told["order.payment_failed"]["data"]["reason"] == told["payment.failed"]["data"]["failure"]
    )


@pytest.mark.parametrize("charged", [False, True])
async def test_a_cancel_tells_how_it_came_out(saga: Saga, *, charged: bool) -> None:
    await saga.put_in_stock(CD=5)
    endpoint = await register(saga, NOWHERE)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    if charged:
        await saga.deliver(ChargePayment.kind)
    async with saga.yard.sessions.begin() as tx:
        await cancel_order(tx, saga.tenant, order)
    await finish(saga)
    assert await endpoint.events() == sorted(
        [*PAID, "order.refunded", "payment.refunded"]
        if charged
        else ["order.reserved", "order.cancelled", "payment.cancelled"]
    )


async def test_each_partial_refund_is_told_with_what_came_back_so_far(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await finish(saga)
    endpoint = await register(saga, NOWHERE, "order.refunded")
    for amount in (500, 999):
        async with saga.yard.sessions.begin() as tx:
            await refund_order(tx, saga.tenant, order, amount)
        await finish(saga)
    rows = await saga.yard.sql(
        "SELECT payload -> 'data' FROM goodsyard.job WHERE subject = :id ORDER BY id",
        id=endpoint.id,
    )
    told = [(data["status"], data["amount_refunded"]) for (data,) in rows]
    assert told == [("paid", 500), ("refunded", 1_499)]


async def test_only_who_asked_for_an_event_is_told(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    paid = await register(saga, NOWHERE, "order.paid")
    orders = await register(saga, NOWHERE, "order.*", "order.paid")
    payments = await register(saga, NOWHERE, "payment.*")
    dead = await register(saga, NOWHERE, "job.dead")
    disabled = await register(saga, NOWHERE)
    await saga.yard.sql(
        "UPDATE commerce.webhook_endpoint SET disabled_at = now() WHERE id = :id", id=disabled.id
    )
    ((other,),) = await saga.yard.sql(
        "INSERT INTO commerce.tenant (name) VALUES ('others') RETURNING id"
    )
    stranger = await register(saga, NOWHERE, tenant=other)
    await saga.order()
    await finish(saga)
    assert await paid.events() == ["order.paid"]
    assert await orders.events() == ["order.paid", "order.reserved"]
    assert await payments.events() == ["payment.succeeded"]
    for endpoint in (dead, disabled, stranger):
        assert await endpoint.events() == []


async def test_a_chunk_that_is_rolled_back_told_nothing_and_one_that_is_split_told_once(
    saga: Saga,
) -> None:
    await saga.put_in_stock(CD=5)
    endpoint = await register(saga, NOWHERE, "order.*")
    orders = [await saga.order() for _ in range(3)]
    await saga.yard.sql(
        "UPDATE commerce.orders SET payment_method = 'broken' WHERE id = :id", id=orders[1]
    )
    # A constraint that one of the orders breaks, once everything else is written.
    await saga.yard.sql(
        "ALTER TABLE commerce.payment ADD CONSTRAINT unbroken CHECK (payment_method <> 'broken')"
    )
    try:
        await saga.deliver(ProcessOrder.kind)
        assert await endpoint.events() == ["order.reserved"] * 2
    finally:
        await saga.yard.sql("ALTER TABLE commerce.payment DROP CONSTRAINT unbroken")
    await saga.hurry()
    await saga.deliver(ProcessOrder.kind)
    assert await endpoint.events() == ["order.reserved"] * 3


async def test_a_dead_job_is_told_of_and_a_dead_webhook_is_not(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    endpoint = await register(saga, NOWHERE, "job.dead")
    await saga.order()
    await saga.yard.sql("DELETE FROM commerce.order_line")
    await saga.yard.sql("UPDATE goodsyard.job SET payload = '{}'")
    await saga.deliver(ProcessOrder.kind)
    told = await payloads(endpoint)
    assert list(told) == ["job.dead"]
    data = told["job.dead"]["data"]
    assert (data["kind"], data["reason"]) == (ProcessOrder.kind, "refused")
    await saga.yard.sql(
        "UPDATE goodsyard.job SET payload = '{}' WHERE kind = :kind", kind=SendWebhook.kind
    )
    await saga.deliver(SendWebhook.kind)
    assert [state for _, _, state, _ in await endpoint.jobs()] == ["dead"]
    async with saga.yard.sessions.begin() as tx:
        await retry_job(tx, Actor(saga.tenant, "ann"), (await endpoint.jobs())[0][0])


async def test_a_dead_job_reaches_who_listens(saga: Saga) -> None:
    async with listen() as receiver:
        endpoint = await register(saga, receiver.url, "job.dead")
        await saga.order()
        await saga.yard.sql("UPDATE goodsyard.job SET payload = '{}'")
        await saga.finish()
        (received,) = receiver.received
        event = received.verify(endpoint.secret())
        assert (event["type"], event["data"]["reason"]) == ("job.dead", "refused")


async def test_two_chunks_at_once_tell_of_each_order_once(saga: Saga) -> None:
    await saga.put_in_stock(CD=1_000)
    endpoint = await register(saga, NOWHERE, "order.*")
    for _ in range(20):
        await saga.order()
    chunks = [await saga.yard.dispatch(ProcessOrder.kind, most=10) for _ in range(2)]
    copies = [*chunks, *chunks]
    await asyncio.gather(*(saga.executor.run(ProcessOrder.kind, chunk) for chunk in copies))
    assert await endpoint.events() == ["order.reserved"] * 20
