"""Those who want the same rows at once wait for each other, in one order; nothing is oversold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

VISA = "pm_card_visa"
CLIENTS = 32


@pytest.mark.row(number=34)
@pytest.mark.long
def test_orders_that_name_the_same_goods_in_any_order_never_deadlock(
    system: System, shop: Shop
) -> None:
    skus = [f"bait-{number}" for number in range(8)]
    for sku in skus:
        shop.stock(sku, 1_000_000)
    shuffled = Random(34)  # noqa: S311 - the same baits in every run

    def bait() -> list[NewOrder]:
        orders = []
        for _ in range(25):
            lines = [Line(sku, 1, 100) for sku in shuffled.sample(skus, len(skus))]
            orders.append(NewOrder(shop.user, "EUR", lines, VISA, {}))
        return orders

    baits = [bait() for _ in range(CLIENTS)]
    shop.expected |= {order.id: "paid" for orders in baits for order in orders}
    began = system.postgres.log.stat().st_size
    with system.cluster.worker(processes=2) as second, ThreadPoolExecutor(CLIENTS) as clients:
        second.until_ready()
        list(clients.map(shop.hand_in, baits))
        shop.until_settled()

    # Postgres counts deadlocks too, but a session may keep its count to itself for ten seconds.
    said = system.postgres.log.read_bytes()[began:]
    assert said.count(b"deadlock detected") == 0
    assert_invariants(shop)
