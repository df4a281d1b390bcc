"""A charge that wants its holder fails for that reason, and what it left behind is called off.

Nobody is there to confirm it, and an intent that waits would be charged one day without an order.
Each test is a point at which a worker may have died on the way.
"""

from __future__ import annotations

from uuid import UUID

import pytest

from commerce.payments.rules import cancel_key, charge_key
from tasks.contracts import ProcessOrder
from tests.saga import Saga, Shelf

BY_HAND = {"Authorization": "Bearer sk_test_by_hand"}


async def intents_of(saga: Saga, payment: UUID) -> list[tuple[str, str]]:
    """Return the id and status of what the gateway has of a payment."""
    answer = await saga.http.get(
        "/v1/payment_intents/search",
        params={"query": f"metadata['payment_id']:'{payment}'"},
        headers=BY_HAND,
    )
    return [(intent["id"], intent["status"]) for intent in answer.json()["data"]]


async def reserved_order(saga: Saga) -> tuple[UUID, UUID]:
    """Hand in an order whose charge is due; return it and its payment."""
    await saga.put_in_stock(CD=5)
    order = await saga.order()
    await saga.deliver(ProcessOrder.kind)
    payment, _ = await saga.payment_of(order)
    return order, payment


async def sent_by_a_worker_that_died(saga: Saga, payment: UUID) -> str:
    """Send the charge as a worker does that dies when the gateway wants the card's holder."""
    await saga.fault("requires_action")
    answer = await saga.http.post(
        "/v1/payment_intents",
        data={
            "amount": "1499",
            "currency": "eur",
            "payment_method": "pm_card_visa",
            "automatic_payment_methods[enabled]": "true",
            "automatic_payment_methods[allow_redirects]": "never",
            "confirm": "true",
            "off_session": "true",
            "metadata[payment_id]": str(payment),
        },
        headers={**BY_HAND, "Idempotency-Key": charge_key(payment)},
    )
    assert answer.json()["status"] == "requires_action", answer.text
    return str(answer.json()["id"])


async def failed_and_called_off(saga: Saga, order: UUID, payment: UUID) -> None:
    """Nothing was charged, nothing can be, and both say why."""
    assert (await saga.status(order), await saga.reason(order)) == (
        "payment_failed",
        "authentication_required",
    )
    ((state, failure),) = await saga.yard.sql(
        "SELECT state::text, failure FROM commerce.payment WHERE id = :id", id=payment
    )
    assert (state, failure) == ("failed", "authentication_required")
    assert [status for _, status in await intents_of(saga, payment)] == ["canceled"]
    assert (await saga.charges(), await saga.ledger()) == ([], [])
    assert await saga.shelf() == Shelf(5, 0)
    assert await saga.live_jobs() == []


async def test_a_charge_that_waits_for_its_holder_is_called_off_at_the_gateway(saga: Saga) -> None:
    order, payment = await reserved_order(saga)
    await saga.fault("requires_action")
    await saga.finish()
    await failed_and_called_off(saga, order, payment)


async def test_a_card_that_wants_its_holder_ends_the_order_for_that_reason(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    order = await saga.order(card="pm_card_threeDSecure2Required")
    await saga.finish()
    assert (await saga.status(order), await saga.reason(order)) == (
        "payment_failed",
        "authentication_required",
    )
    payment, _ = await saga.payment_of(order)
    assert [status for _, status in await intents_of(saga, payment)] == ["requires_payment_method"]


@pytest.mark.parametrize("old", [False, True], ids=["key kept", "key forgotten"])
async def test_a_worker_that_died_before_it_called_off_leaves_nothing_to_be_charged(
    saga: Saga, *, old: bool
) -> None:
    order, payment = await reserved_order(saga)
    await sent_by_a_worker_that_died(saga, payment)
    await charge_again(saga, old=old)
    await failed_and_called_off(saga, order, payment)


@pytest.mark.parametrize("old", [False, True], ids=["key kept", "key forgotten"])
async def test_a_worker_that_died_after_it_called_off_changes_nothing_about_it(
    saga: Saga, *, old: bool
) -> None:
    order, payment = await reserved_order(saga)
    intent = await sent_by_a_worker_that_died(saga, payment)
    answer = await saga.http.post(
        f"/v1/payment_intents/{intent}/cancel",
        data={"cancellation_reason": "abandoned"},
        headers={**BY_HAND, "Idempotency-Key": cancel_key(payment)},
    )
    assert answer.json()["status"] == "canceled"
    await charge_again(saga, old=old)
    await failed_and_called_off(saga, order, payment)


async def charge_again(saga: Saga, *, old: bool) -> None:
    """Let another worker take the job over, at once or when the gateway has forgotten its key."""
    if old:
        await saga.fault("forget_keys")
        await saga.yard.sql("UPDATE goodsyard.job SET started_at = now() - interval '21 hours'")
    await saga.finish()
