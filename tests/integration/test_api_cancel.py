"""Cancel over HTTP, at every moment of an order's life: what it answers, and what comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from commerce.orders.rules import Line
from goodsyard.interventions import Actor, retry_jobs
from tasks.contracts import ChargePayment, ProcessOrder
from tests.integration.conftest import Api
from tests.integration.till import Till, open_till
from tests.saga import DECLINED, Booking, Saga, Sandbox, Shelf

CAPTURE = Booking("gateway", "sales", 1_499, "capture")
REFUND = Booking("sales", "gateway", 1_499, "refund")


@pytest.fixture
async def till(api: Api, redis_url: str, sandbox: Sandbox) -> AsyncIterator[Till]:
    async with open_till(api, redis_url, sandbox) as opened:
        yield opened


async def _nothing(_: Saga) -> None:
    pass


async def _dispatched(saga: Saga) -> None:
    await saga.yard.dispatch(ProcessOrder.kind)


async def _reserved(saga: Saga) -> None:
    await saga.deliver(ProcessOrder.kind)


async def _died_unprocessed(saga: Saga) -> None:
    await saga.yard.sql("UPDATE goodsyard.job SET state = 'dead', reason = 'lost'")


async def _died_before_the_charge(saga: Saga) -> None:
    await _reserved(saga)
    await _died_unprocessed(saga)


async def _charged_but_not_told(saga: Saga) -> None:
    await _reserved(saga)
    await saga.fault("charge_then_drop")
    await saga.deliver(ChargePayment.kind)


async def _died_of_doubt(saga: Saga) -> None:
    await _reserved(saga)
    await saga.yard.sql("UPDATE goodsyard.job SET max_attempts = 1")
    await saga.fault("charge_then_drop")
    await saga.deliver(ChargePayment.kind)


async def _finished(saga: Saga) -> None:
    await saga.finish()


@dataclass(frozen=True)
class Case:
    """When an order is cancelled, and what is to come of it."""

    until: Callable[[Saga], Awaitable[None]]
    """Carries the order so far."""
    at_once: str
    """Its status in the answer, or in the refusal."""
    in_the_end: str
    ledger: tuple[Booking, ...] = ()
    status_code: int = 202
    line: Line = Line("CD", 1, 1_499)  # noqa: RUF009 - a NamedTuple
    card: str = "pm_card_visa"


GIVEN_BACK = (CAPTURE, REFUND)
CASES = {
    "pending": Case(_nothing, "cancelled", "cancelled"),
    "on its way to a worker": Case(_dispatched, "cancelled", "cancelled"),
    "pending, its job dead": Case(_died_unprocessed, "cancelled", "cancelled"),
    "reserved": Case(_reserved, "cancelled", "cancelled"),
    "reserved, its charge dead unsent": Case(_died_before_the_charge, "cancelled", "cancelled"),
    "perhaps charged": Case(_charged_but_not_told, "reserved", "refunded", ledger=GIVEN_BACK),
    "perhaps charged, its job dead": Case(
        _died_of_doubt, "reserved", "refunded", ledger=GIVEN_BACK
    ),
    "paid": Case(_finished, "paid", "refunded", ledger=GIVEN_BACK),
    "free": Case(_finished, "cancelled", "cancelled", line=Line("CD", 1, 0)),
    "rejected": Case(_finished, "rejected", "rejected", status_code=409, line=Line("CD", 6, 1_499)),
    "declined": Case(_finished, "payment_failed", "payment_failed", status_code=409, card=DECLINED),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_cancel_has_the_right_outcome_whenever_it_comes(till: Till, case: Case) -> None:
    saga = till.saga
    await saga.put_in_stock(CD=5)
    order = await saga.order(case.line, card=case.card)
    href = f"/v1/orders/{order}"
    await case.until(saga)
    answer = await till.post(f"{href}/cancel", None, "off")
    assert answer.status_code == case.status_code, answer.text
    if case.status_code == 409:
        assert answer.json()["type"] == "/problems/order-state"
        assert case.at_once in answer.json()["detail"]
    else:
        assert answer.json()["order"]["status"] == case.at_once
        again = await till.post(f"{href}/cancel", None, "off")
        assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")

    await _revive(saga)
    await saga.hurry()
    await saga.finish()
    assert (await till.get(href))["status"] == case.in_the_end
    assert await saga.shelf() == Shelf(5, 0)
    assert tuple(await saga.ledger()) == case.ledger
    assert await saga.live_jobs() == []
    refused = await till.post(f"{href}/cancel", None)
    assert refused.status_code == 409
    assert case.in_the_end in refused.json()["detail"]


async def _revive(saga: Saga) -> None:
    """Let dead jobs run again, as a person would who was told that the order is blocked."""
    dead = await saga.yard.sql("SELECT id FROM goodsyard.job WHERE state = 'dead'")
    async with saga.yard.sessions.begin() as tx:
        await retry_jobs(tx, Actor(saga.tenant, "ann"), [row.id for row in dead])


async def test_an_order_whose_refund_was_booked_by_a_worker_is_never_shown_as_it_was(
    till: Till,
) -> None:
    """Nobody tells the cache: the version that Postgres names is another one."""
    saga = till.saga
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.finish()
    href = f"/v1/orders/{order}"
    for _ in range(2):  # from Postgres, then from Redis
        assert (await till.get(href))["amount_refunded"]["amount"] == 0
    for amount, left in ((500, 500), (500, 1_000)):
        answer = await till.post(f"{href}/refund", {"amount": amount})
        assert answer.status_code == 202, answer.text
        await saga.finish()
        for _ in range(2):
            shown = await till.get(href)
            assert (shown["status"], shown["amount_refunded"]["amount"]) == ("paid", left)
    too_much = await till.post(f"{href}/refund", {"amount": 500})
    assert (too_much.status_code, too_much.json()["type"]) == (409, "/problems/order-state")
    assert "499" in too_much.json()["detail"]
    assert (await till.post(f"{href}/refund", None)).status_code == 202
    await saga.finish()
    assert (await till.get(href))["status"] == "refunded"
    assert (
        sum(booking.amount for booking in await saga.ledger() if booking.code == "refund") == 1_499
    )
