"""What was paid can be given back, in parts, and never more than once over."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from commerce.orders.rules import Line
from goodsyard.submit import Staged, stage
from tasks.cancellation import OrderNotFoundError, OrderStateError, cancel_order, refund_order
from tasks.contracts import ChargePayment, RefundPayment
from tests.saga import DECLINED, Booking, Saga, Shelf

CAPTURE = Booking("gateway", "sales", 1_499, "capture")


async def paid_order(saga: Saga) -> UUID:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.finish()
    assert await saga.status(order) == "paid"
    return order


async def refund(
    saga: Saga, order: UUID, amount: int | None = None, tenant: int | None = None
) -> None:
    async with saga.yard.sessions.begin() as tx:
        await refund_order(tx, tenant or saga.tenant, order, amount)


def refunded(amount: int) -> Booking:
    return Booking("sales", "gateway", amount, "refund")


async def test_a_full_refund_makes_the_order_refunded(saga: Saga) -> None:
    order = await paid_order(saga)
    await refund(saga, order)
    assert (await saga.status(order), await saga.refunded(order)) == ("paid", 0)
    await saga.finish()
    assert (await saga.status(order), await saga.refunded(order)) == ("refunded", 1_499)
    assert await saga.ledger() == [CAPTURE, refunded(1_499)]
    assert await saga.shelf() == Shelf(4, 0)  # the goods are the customer's until they come back


async def test_a_partial_refund_leaves_the_order_paid(saga: Saga) -> None:
    order = await paid_order(saga)
    await refund(saga, order, 500)
    await saga.finish()
    assert (await saga.status(order), await saga.refunded(order)) == ("paid", 500)
    await refund(saga, order, 300)
    await saga.finish()
    assert (await saga.status(order), await saga.refunded(order)) == ("paid", 800)
    await refund(saga, order)
    await saga.finish()
    assert (await saga.status(order), await saga.refunded(order)) == ("refunded", 1_499)
    assert await saga.ledger() == [CAPTURE, refunded(500), refunded(300), refunded(699)]


@pytest.mark.parametrize("amount", [1_500, 10**9, 0, -1])
async def test_no_more_than_was_paid_and_no_less_than_a_cent_is_refunded(
    saga: Saga, amount: int
) -> None:
    order = await paid_order(saga)
    with pytest.raises(OrderStateError, match=f"1499 can still be refunded, not {amount}"):
        await refund(saga, order, amount)
    await saga.finish()
    assert await saga.ledger() == [CAPTURE]


async def test_what_is_about_to_be_refunded_is_not_refunded_again(saga: Saga) -> None:
    order = await paid_order(saga)
    await refund(saga, order, 1_000)
    with pytest.raises(OrderStateError, match="499 can still be refunded, not 500"):
        await refund(saga, order, 500)
    await refund(saga, order)
    with pytest.raises(OrderStateError, match="0 can still be refunded, not 0"):
        await refund(saga, order)
    await saga.finish()
    assert await saga.status(order) == "refunded"
    with pytest.raises(OrderStateError, match="the order is refunded"):
        await refund(saga, order)


async def test_refunds_asked_for_at_once_never_come_to_more_than_was_paid(saga: Saga) -> None:
    order = await paid_order(saga)

    async def ask() -> bool:
        try:
            await refund(saga, order, 400)
        except OrderStateError:
            return False
        return True

    assert sum(await asyncio.gather(*(ask() for _ in range(10)))) == 3
    await saga.finish()
    assert await saga.refunded(order) == 1_200


@pytest.mark.parametrize("fault", ["charge_then_drop", "charge_then_500", "stored_500", "500"])
async def test_a_refund_that_may_have_happened_is_asked_again_or_looked_up_under_its_key(
    saga: Saga, fault: str
) -> None:
    order = await paid_order(saga)
    await refund(saga, order, 500)
    await saga.fault(fault)
    await saga.deliver(RefundPayment.kind)
    with pytest.raises(OrderStateError, match="999 can still be refunded"):
        await refund(saga, order, 1_000)
    await saga.hurry()
    await saga.finish()
    happened = fault != "stored_500"  # an error that was nothing else is kept for a key's life
    assert len(await saga.refunds()) == happened
    assert await saga.refunded(order) == 500 * happened
    assert await saga.ledger() == [CAPTURE, *[refunded(500)] * happened]


@pytest.mark.parametrize("fault", ["charge_then_drop", "charge_then_500", "500"])
async def test_a_refund_whose_key_has_aged_is_looked_up_and_never_sent_again(
    saga: Saga, fault: str
) -> None:
    order = await paid_order(saga)
    await refund(saga, order, 500)
    await saga.fault(fault)
    await saga.deliver(RefundPayment.kind)
    await saga.fault("forget_keys")
    await saga.yard.sql("UPDATE goodsyard.job SET started_at = now() - interval '21 hours'")
    await saga.hurry()
    await saga.finish()
    happened = fault != "500"
    assert len(await saga.refunds()) == happened
    assert await saga.ledger() == [CAPTURE, *[refunded(500)] * happened]
    assert await saga.live_jobs() == ([] if happened else [(RefundPayment.kind, "dead")])


async def test_a_cancel_after_a_partial_refund_gives_back_the_rest(saga: Saga) -> None:
    order = await paid_order(saga)
    await refund(saga, order, 500)
    async with saga.yard.sessions.begin() as tx:
        await cancel_order(tx, saga.tenant, order)
    await saga.finish()
    assert (await saga.status(order), await saga.refunded(order)) == ("refunded", 1_499)
    assert sorted(await saga.ledger()) == sorted([CAPTURE, refunded(500), refunded(999)])
    assert await saga.shelf() == Shelf(5, 0)


async def test_what_was_never_paid_is_not_refunded(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    pending = await saga.order()
    with pytest.raises(OrderStateError, match="pending"):
        await refund(saga, pending)
    declined = await saga.order(card=DECLINED)
    free = await saga.order(Line("CD", 1, 0))
    await saga.finish()
    for order in (declined, free):
        with pytest.raises(OrderStateError, match="nothing to refund"):
            await refund(saga, order)


async def test_another_tenants_order_is_not_refunded(saga: Saga) -> None:
    order = await paid_order(saga)
    with pytest.raises(OrderNotFoundError):
        await refund(saga, order, tenant=saga.tenant + 1)


async def test_many_refunds_of_many_orders_in_several_chunks_are_each_booked_once(
    saga: Saga,
) -> None:
    await saga.put_in_stock(CD=20)
    orders = [await saga.order() for _ in range(12)]
    await saga.finish()
    for _ in range(2):
        for order in orders:
            await refund(saga, order, 700)
        orders.reverse()  # so that no two chunks meet the orders in one order
    chunks = [await saga.yard.dispatch(RefundPayment.kind, most=6) for _ in range(4)]
    with capture_logs() as logs:
        await asyncio.gather(*(saga.executor.run(RefundPayment.kind, chunk) for chunk in chunks))
        await saga.executor.drain()
    assert logs == []  # no deadlock that was run again, either
    assert await saga.live_jobs() == []
    assert {await saga.refunded(order) for order in orders} == {1_400}
    assert len(await saga.ledger()) == 36


async def test_a_charge_that_was_settled_before_is_not_settled_again(saga: Saga) -> None:
    """As when a person replays a job whose answer had come in after all."""
    order = await paid_order(saga)
    payment, _ = await saga.payment_of(order)
    async with saga.yard.sessions.begin() as tx:
        contract = ChargePayment(
            payment_id=payment, order_id=order, amount=1_499, currency="EUR",
            payment_method="pm_card_visa",
        )  # fmt: skip
        await stage(tx, [Staged(saga.tenant, contract)])
    await saga.finish()
    assert (len(await saga.charges()), await saga.ledger()) == (1, [CAPTURE])
    assert len(await saga.mails()) == 1
    assert await saga.shelf() == Shelf(4, 0)
    assert await saga.live_jobs() == []
