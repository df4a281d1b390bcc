"""Every way an order can end, with its stock, its money and its mail."""

from __future__ import annotations

import pytest

from commerce.orders.rules import Line
from goodsyard.job import JobState
from tasks.contracts import ChargePayment, ProcessOrder, SendEmail
from tests.saga import DECLINED, VISA, Booking, Saga, Shelf

CAPTURE = Booking("gateway", "sales", 1_499, "capture")


async def test_an_order_is_reserved_then_paid_and_then_its_receipt_is_mailed(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    assert (await saga.status(order), await saga.shelf()) == ("pending", Shelf(5, 0))

    await saga.deliver(ProcessOrder.kind)
    assert (await saga.status(order), await saga.shelf()) == ("reserved", Shelf(5, 1))
    assert await saga.charges() == []
    assert await saga.live_jobs() == [(ChargePayment.kind, "waiting")]

    await saga.deliver(ChargePayment.kind)
    assert (await saga.status(order), await saga.shelf()) == ("paid", Shelf(4, 0))
    (charge,) = await saga.charges()
    assert (charge["amount"], charge["currency"], charge["status"]) == (1_499, "eur", "succeeded")
    assert await saga.ledger() == [CAPTURE]
    assert await saga.live_jobs() == [(SendEmail.kind, "waiting")]
    assert await saga.mails() == []

    await saga.deliver(SendEmail.kind)
    (mail,) = await saga.mails()
    assert mail["subject"] == "Your receipt"
    assert await saga.live_jobs() == []


async def test_an_order_that_the_stock_does_not_suffice_for_is_rejected_and_costs_nothing(
    saga: Saga,
) -> None:
    await saga.put_in_stock(CD=5, LP=0)
    short = await saga.order(Line("CD", 5, 1_499), Line("LP", 1, 2_499))
    unknown = await saga.order(Line("MC", 1, 999))
    await saga.finish()
    assert [await saga.status(order) for order in (short, unknown)] == ["rejected"] * 2
    assert await saga.reason(short) == "out_of_stock"
    assert (await saga.shelf("CD"), await saga.shelf("LP")) == (Shelf(5, 0), Shelf(0, 0))
    assert (await saga.charges(), await saga.ledger(), await saga.mails()) == ([], [], [])


async def test_a_declined_card_releases_the_goods_and_books_nothing(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order(card=DECLINED)
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("payment_failed", Shelf(5, 0))
    assert await saga.reason(order) == "generic_decline"
    assert (await saga.payment_of(order))[1] == "failed"
    assert [charge["status"] for charge in await saga.charges()] == ["failed"]
    assert (await saga.ledger(), await saga.mails()) == ([], [])


async def test_a_free_order_is_paid_with_no_charge_and_no_booking_and_has_a_receipt(
    saga: Saga,
) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order(Line("CD", 2, 0))
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("paid", Shelf(3, 0))
    assert (await saga.charges(), await saga.ledger()) == ([], [])
    assert [mail["subject"] for mail in await saga.mails()] == ["Your receipt"]


async def test_lines_that_share_a_sku_take_their_sum(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order(Line("CD", 2, 1_000), Line("CD", 3, 999))
    await saga.finish()
    assert (await saga.status(order), await saga.shelf()) == ("paid", Shelf(0, 0))
    assert [booking.amount for booking in await saga.ledger()] == [4_997]


async def test_orders_of_every_end_in_one_chunk_do_not_touch_each_other(saga: Saga) -> None:
    await saga.put_in_stock(CD=5, LP=1)
    orders = [
        await saga.order(Line("CD", 2, 1_499)),
        await saga.order(Line("CD", 4, 1_499)),
        await saga.order(Line("CD", 1, 1_499), card=DECLINED),
        await saga.order(Line("LP", 1, 0)),
        await saga.order(Line("CD", 2, 1_499)),
    ]
    assert len(await saga.deliver(ProcessOrder.kind)) == 5
    assert len(await saga.deliver(ChargePayment.kind)) == 3
    await saga.finish()
    assert [await saga.status(order) for order in orders] == [
        "paid", "rejected", "payment_failed", "paid", "paid",
    ]  # fmt: skip
    assert (await saga.shelf("CD"), await saga.shelf("LP")) == (Shelf(1, 0), Shelf(0, 0))
    assert [booking.amount for booking in await saga.ledger()] == [2_998, 2_998]
    assert sorted(await saga.receipts()) == sorted(str(orders[n]) for n in (0, 3, 4))


async def test_a_customer_who_was_erased_meanwhile_gets_no_mail(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.yard.sql("UPDATE commerce.users SET email = NULL, erased_at = now()")
    await saga.finish()
    assert await saga.status(order) == "paid"
    assert await saga.receipts() == []


async def test_an_order_that_is_not_there_is_refused(saga: Saga) -> None:
    order = await saga.order()
    await saga.yard.sql("DELETE FROM commerce.order_line")
    await saga.yard.sql("DELETE FROM commerce.orders")
    await saga.deliver(ProcessOrder.kind)
    ((state, reason, error),) = await saga.yard.sql(
        "SELECT state::text, reason, error FROM goodsyard.job"
    )
    assert (state, reason) == ("dead", "refused")
    assert error == f"there is no order {order}"


@pytest.mark.parametrize("fault", ["charge_then_drop", "charge_then_500", "500", "429"])
async def test_a_gateway_that_is_not_clear_charges_once_and_in_the_end_all_is_booked(
    saga: Saga, fault: str
) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    await saga.fault(fault)
    await saga.deliver(ChargePayment.kind)
    assert (await saga.status(order), await saga.shelf()) == ("reserved", Shelf(5, 1))
    await saga.hurry()
    await saga.finish()
    payment, _ = await saga.payment_of(order)
    assert [c["idempotency_key"] for c in await saga.charges()] == [f"{payment}:charge"]
    assert (await saga.status(order), await saga.shelf()) == ("paid", Shelf(4, 0))
    assert await saga.ledger() == [CAPTURE]
    assert await saga.receipts() == [str(order)]


async def test_a_key_that_is_spent_on_an_error_is_never_exchanged_for_another(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    await saga.fault("stored_500")
    for _ in range(3):
        await saga.deliver(ChargePayment.kind)
        await saga.hurry()
    assert await saga.charges() == []
    assert (await saga.status(order), await saga.shelf()) == ("reserved", Shelf(5, 1))


async def test_a_wait_the_gateway_asks_for_is_kept(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    await saga.order()
    await saga.deliver(ProcessOrder.kind)
    await saga.fault("429", seconds=900)
    await saga.deliver(ChargePayment.kind)
    ((wait,),) = await saga.yard.sql(
        "SELECT extract(epoch FROM run_at - now())::float8 FROM goodsyard.job"
    )
    assert 800 < wait <= 900


@pytest.mark.parametrize("fault", ["charge_then_drop", "charge_then_500"])
async def test_a_charge_whose_key_has_aged_is_looked_up_and_never_sent_again(
    saga: Saga, fault: str
) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    await saga.fault(fault)
    await saga.deliver(ChargePayment.kind)
    await saga.fault("forget_keys")
    await saga.yard.sql("UPDATE goodsyard.job SET started_at = now() - interval '21 hours'")
    await saga.hurry()
    await saga.finish()
    assert len(await saga.charges()) == 1
    assert await saga.status(order) == "paid"
    assert await saga.ledger() == [CAPTURE]


async def test_an_aged_charge_without_a_trace_is_for_a_person(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    await saga.fault("500")
    await saga.deliver(ChargePayment.kind)
    await saga.yard.sql("UPDATE goodsyard.job SET started_at = now() - interval '21 hours'")
    await saga.hurry()
    await saga.finish()
    assert await saga.charges() == []
    assert (await saga.status(order), await saga.shelf()) == ("reserved", Shelf(5, 1))
    ((state, reason),) = await saga.yard.sql("SELECT state::text, reason FROM goodsyard.job")
    assert (state, reason) == (JobState.DEAD.value, "uncertain")


async def test_copies_of_every_message_change_nothing(saga: Saga) -> None:
    await saga.put_in_stock(CD=10)
    orders = [await saga.order(card=card) for card in (VISA, VISA, DECLINED, VISA)]
    for kind in (ProcessOrder.kind, ChargePayment.kind, SendEmail.kind):
        deliveries = await saga.yard.dispatch(kind)
        for _ in range(3):
            await saga.executor.run(kind, deliveries)
            await saga.executor.drain()
    assert len(await saga.charges()) == 4
    assert len(await saga.ledger()) == 3
    assert await saga.shelf() == Shelf(7, 0)
    assert len(await saga.mails()) == 3
    assert await saga.status(orders[2]) == "payment_failed"


async def test_a_mail_has_the_same_id_however_often_it_is_sent(saga: Saga) -> None:
    await saga.put_in_stock(CD=1)
    await saga.order(Line("CD", 1, 0))
    await saga.deliver(ProcessOrder.kind)
    await saga.fault("mail_drop_after_data")
    await saga.deliver(SendEmail.kind)
    await saga.hurry()
    await saga.deliver(SendEmail.kind)
    first, second = await saga.mails()
    assert first["message_id"] == second["message_id"]
    assert await saga.live_jobs() == []


async def test_a_mailbox_that_is_busy_is_tried_again_and_one_that_is_none_is_not(
    saga: Saga,
) -> None:
    await saga.put_in_stock(CD=2)
    await saga.order(Line("CD", 1, 0))
    await saga.deliver(ProcessOrder.kind)
    await saga.fault("mail_450")
    await saga.deliver(SendEmail.kind)
    assert await saga.live_jobs() == [(SendEmail.kind, "waiting")]
    await saga.fault("mail_550")
    await saga.hurry()
    await saga.deliver(SendEmail.kind)
    assert await saga.live_jobs() == [(SendEmail.kind, "dead")]
    ((reason,),) = await saga.yard.sql("SELECT reason FROM goodsyard.job")
    assert reason == "refused"
    assert await saga.mails() == []
