"""While orders expire and their charges begin, each order is charged or called off, never both."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import httpx
import pytest

from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line
from goodsyard.settings import PREFIX
from tests.faults.conftest import System
from tests.harness.clients import caller
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

ORDERS = 400
AFTER_A_SECOND = {f"{PREFIX}RESERVATION_SECONDS": "1"}


@pytest.fixture
def http(shop: Shop, urls: list[str]) -> Iterator[httpx.Client]:
    with caller(shop, urls[0]) as client:
        yield client
        let_all_queues_go(shop)


def let_all_queues_go(shop: Shop) -> None:
    """Resume what is paused, all at once: relays hear of it in one moment."""
    shop.rows("UPDATE goodsyard.queue SET paused = false RETURNING name")


def hold_payments(shop: Shop, http: httpx.Client) -> None:
    """Pause the queue of payments; relays have heard of it once a charge is held back."""
    http.post("/v1/queues/payments/pause").raise_for_status()

    def one_is_held() -> bool:
        [order] = hand_in(shop, 1)
        shop.until(lambda: shop.statuses()[order] == "paid" or overdue(shop) > 0, "an order's fate")
        return shop.statuses()[order] != "paid"

    shop.until(one_is_held, "the relay to hear of the pause")


def hand_in(shop: Shop, count: int) -> list[UUID]:
    cds = Line("CD", 2, 1_499)
    orders = [NewOrder(shop.user, "EUR", [cds], "pm_card_visa", {}) for _ in range(count)]
    shop.hand_in(orders)
    return [order.id for order in orders]


def overdue(shop: Shop) -> int:
    """Return how many charges have been due for more than a second."""
    count: int = shop.value("""
        SELECT count(*) FROM goodsyard.job
         WHERE tenant = %(tenant)s AND kind = 'payments.charge'
           AND run_at < now() - interval '1 second'""")
    return count


def assert_charged_or_called_off(shop: Shop) -> None:
    """Each order is one or the other, as the gateway says too."""
    shop.until_settled()
    shop.expected |= shop.statuses()
    outcomes = shop.outcomes()
    print(f"{dict(outcomes)}")  # noqa: T201 - how a race went, see -rP
    assert outcomes.keys() <= {"paid", "cancelled"}
    assert len(shop.charges()) == outcomes["paid"]
    assert_invariants(shop)


def test_orders_whose_charges_are_held_back_expire_and_are_never_charged(
    system: System, shop: Shop, http: httpx.Client
) -> None:
    hold_payments(shop, http)
    held = hand_in(shop, ORDERS)
    shop.until(lambda: overdue(shop) >= ORDERS, "the charges to be overdue")
    with system.cluster.relay(AFTER_A_SECOND):
        shop.until(lambda: shop.outcomes()["cancelled"] >= ORDERS, "the orders to expire")
    let_all_queues_go(shop)
    assert_charged_or_called_off(shop)
    assert {shop.statuses()[order] for order in held} == {"cancelled"}


@pytest.mark.slow
def test_charges_that_are_let_go_while_their_orders_expire_are_sent_or_their_orders_called_off(
    system: System, shop: Shop, http: httpx.Client
) -> None:
    hold_payments(shop, http)
    hand_in(shop, ORDERS)
    shop.until(lambda: overdue(shop) >= ORDERS, "the charges to be overdue")
    http.post("/v1/queues/orders/pause").raise_for_status()
    staged = """
        SELECT (SELECT count(*) FROM goodsyard.job
                 WHERE tenant = %(tenant)s AND kind = 'orders.expire')
             + (SELECT count(*) FROM goodsyard.job_done
                 WHERE tenant = %(tenant)s AND kind = 'orders.expire')"""
    with (
        system.cluster.worker(queues=["payments"], processes=2) as cashiers,
        system.cluster.relay(AFTER_A_SECOND),
    ):
        cashiers.until_ready()
        shop.until(lambda: shop.value(staged) >= ORDERS, "the expiries to be staged")
        let_all_queues_go(shop)
        assert_charged_or_called_off(shop)
