"""Those who want the same rows at once wait for each other, in one order; nothing is oversold."""

from __future__ import annotations

import pytest

from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

VISA = "pm_card_visa"


@pytest.mark.row(number=35)
def test_of_a_hundred_pieces_that_five_thousand_want_exactly_a_hundred_are_sold(
    shop: Shop,
) -> None:
    shop.stock("rare", 100)
    orders = [NewOrder(shop.user, "EUR", [Line("rare", 1, 999)], VISA, {}) for _ in range(5_000)]
    shop.hand_in(orders)
    shop.until_settled()

    assert shop.outcomes() == {"paid": 100, "rejected": 4_900}
    left = "SELECT on_hand FROM commerce.stock WHERE tenant = %(tenant)s AND sku = 'rare'"
    assert shop.value(left) == 0
    shop.expected |= shop.statuses()  # who got one is decided by nobody but the winners
    assert_invariants(shop)
