"""An order called off at any moment leaves no goods set aside and no money kept."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import cycle
from uuid import UUID

import pytest

from commerce.orders.rules import Line
from goodsyard.interventions import Actor, retry_jobs
from tasks.cancellation import OrderNotFoundError, OrderStateError, cancel_order
from tasks.contracts import ChargePayment, ProcessOrder, RefundPayment, SendEmail
from tests.saga import DECLINED, VISA, Booking, Saga, Shelf
from tests.yard import until

CAPTURE = Booking("gateway", "sales", 1_499, "capture")
REFUND = Booking("sales", "gateway", 1_499, "refund")


async def cancel(saga: Saga, order: UUID, tenant: int | None = None) -> None:
    async with saga.yard.sessions.begin() as tx:
        await cancel_order(tx, tenant or saga.tenant, order)


async def test_a_pending_order_is_cancelled_at_once_and_never_begun(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await cancel(saga, order)
    assert (await saga.status(order), await saga.shelf()) == ("cancelled", Shelf(5, 0))
    assert await saga.live_jobs() == []
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("cancelled", Shelf(5, 0))
    assert (await saga.charges(), await saga.ledger(), await saga.mails()) == ([], [], [])


async def test_a_pending_order_whose_message_is_on_its_way_is_cancelled_too(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    deliveries = await saga.yard.dispatch(ProcessOrder.kind)
    await cancel(saga, order)
    await saga.executor.run(ProcessOrder.kind, deliveries)
    assert (await saga.status(order), await saga.shelf()) == ("cancelled", Shelf(5, 0))


async def test_a_reserved_order_whose_charge_was_not_begun_is_released(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    deliveries = await saga.yard.dispatch(ChargePayment.kind)
    await cancel(saga, order)
    assert (await saga.status(order), await saga.shelf()) == ("cancelled", Shelf(5, 0))
    assert (await saga.payment_of(order))[1] == "cancelled"
    await saga.executor.run(ChargePayment.kind, deliveries)  # the message comes all the same
    await saga.finish()
    assert (await saga.charges(), await saga.ledger(), await saga.mails()) == ([], [], [])


async def charging(saga: Saga, card: str = VISA) -> tuple[UUID, asyncio.Task[object]]:
    """Return an order whose charge is at the gateway, and what waits for the answer."""
    await saga.put_in_stock(CD=5)
    order = await saga.order(card=card)
    await saga.deliver(ProcessOrder.kind)
    await saga.fault("latency", seconds=0.5)
    running = asyncio.create_task(saga.deliver(ChargePayment.kind))

    async def begun() -> bool:
        return await saga.live_jobs() == [(ChargePayment.kind, "running")]

    await until(begun, "the charge to begin")
    return order, running


async def test_an_order_cancelled_while_its_charge_is_under_way_is_refunded_and_not_shipped(
    saga: Saga,
) -> None:
    order, running = await charging(saga)
    await cancel(saga, order)
    assert (await saga.status(order), await saga.shelf()) == ("reserved", Shelf(5, 1))
    await running
    assert (await saga.status(order), await saga.shelf()) == ("paid", Shelf(5, 0))
    assert await saga.ledger() == [CAPTURE]
    assert await saga.live_jobs() == [(RefundPayment.kind, "waiting")]
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("refunded", Shelf(5, 0))
    assert await saga.ledger() == [CAPTURE, REFUND]
    assert await saga.mails() == []


async def test_an_order_cancelled_while_its_card_is_declined_is_just_released(saga: Saga) -> None:
    order, running = await charging(saga, DECLINED)
    await cancel(saga, order)
    await running
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("payment_failed", Shelf(5, 0))
    assert await saga.ledger() == []


@pytest.mark.parametrize("fault", ["charge_then_drop", "500"])
async def test_a_charge_that_may_have_happened_is_cleared_up_before_it_is_called_off(
    saga: Saga, fault: str
) -> None:
    """It waits for its next attempt: nobody may release what may have been paid for."""
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    await saga.fault(fault)
    await saga.deliver(ChargePayment.kind)
    await cancel(saga, order)
    assert (await saga.status(order), await saga.shelf()) == ("reserved", Shelf(5, 1))
    await saga.hurry()
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("refunded", Shelf(5, 0))
    assert await saga.ledger() == [CAPTURE, REFUND]


async def test_nor_is_one_that_died_and_was_revived(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    await saga.fault("charge_then_drop")
    await saga.yard.sql("UPDATE goodsyard.job SET max_attempts = 1")
    ((charge, _),) = await saga.deliver(ChargePayment.kind)
    assert await saga.live_jobs() == [(ChargePayment.kind, "dead")]
    async with saga.yard.sessions.begin() as tx:
        assert len(await retry_jobs(tx, Actor(saga.tenant, "ann"), [charge])) == 1
    await cancel(saga, order)
    assert await saga.status(order) == "reserved"
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("refunded", Shelf(5, 0))
    assert await saga.ledger() == [CAPTURE, REFUND]


async def test_a_paid_order_is_refunded_and_its_goods_are_back_at_once(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.finish()
    assert await saga.shelf() == Shelf(4, 0)
    await cancel(saga, order)
    assert (await saga.status(order), await saga.shelf()) == ("paid", Shelf(5, 0))
    assert await saga.ledger() == [CAPTURE]
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("refunded", Shelf(5, 0))
    assert await saga.ledger() == [CAPTURE, REFUND]


async def test_a_free_order_is_cancelled_with_its_goods_and_nothing_else(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order(Line("CD", 2, 0))
    await saga.finish()
    await cancel(saga, order)
    assert (await saga.status(order), await saga.shelf()) == ("cancelled", Shelf(5, 0))
    await saga.finish()
    assert await saga.ledger() == []


async def test_a_cancel_that_comes_twice_gives_back_once(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.finish()
    await cancel(saga, order)
    with pytest.raises(OrderStateError, match="cancelled already"):
        await cancel(saga, order)
    await saga.finish()
    with pytest.raises(OrderStateError, match="the order is refunded"):
        await cancel(saga, order)
    assert await saga.shelf() == Shelf(5, 0)
    assert await saga.ledger() == [CAPTURE, REFUND]


async def test_an_order_that_came_to_nothing_cannot_be_cancelled(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order(card=DECLINED)
    rejected = await saga.order(Line("CD", 6, 1_499))
    await saga.finish()
    for over, status in ((order, "payment_failed"), (rejected, "rejected")):
        with pytest.raises(OrderStateError, match=f"the order is {status}"):
            await cancel(saga, over)
    assert await saga.shelf() == Shelf(5, 0)


async def test_another_tenants_order_cannot_be_cancelled(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    with pytest.raises(OrderNotFoundError):
        await cancel(saga, order, tenant=saga.tenant + 1)
    await saga.finish()
    assert await saga.status(order) == "paid"


async def test_a_cancel_that_meets_the_order_anywhere_on_its_way_leaves_all_in_balance(
    saga: Saga,
) -> None:
    """Sixty orders, each called off while the others and it itself are being carried out."""
    pieces = 200
    await saga.put_in_stock(CD=pieces)
    orders = [await saga.order(card=card) for card, _ in zip(cycle((VISA, DECLINED)), range(60))]
    kinds = [ProcessOrder.kind, ChargePayment.kind, RefundPayment.kind, SendEmail.kind]
    done = asyncio.Event()

    async def work(kind: str) -> None:
        while not done.is_set():
            await saga.executor.run(kind, await saga.yard.dispatch(kind, most=5))
            await asyncio.sleep(0)

    async def call_off(order: UUID) -> None:
        with suppress(OrderStateError):  # it was declined first
            await cancel(saga, order)

    workers = [asyncio.create_task(work(kind)) for kind in kinds]
    for batch in range(0, len(orders), 6):
        await asyncio.gather(*(call_off(order) for order in orders[batch : batch + 6]))
    done.set()
    await asyncio.gather(*workers)
    await saga.executor.drain()
    await saga.finish()

    states = {await saga.status(order) for order in orders}
    assert states <= {"cancelled", "refunded", "payment_failed"}
    assert await saga.shelf() == Shelf(pieces, 0)
    money = {"capture": 0, "refund": 0}
    for booking in await saga.ledger():
        money[booking.code] += booking.amount
    assert money["capture"] == money["refund"]
    assert await saga.live_jobs() == []
