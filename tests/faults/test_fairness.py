"""One tenant's backlog holds nobody else's order up."""

from __future__ import annotations

import pytest

from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

_BACKLOG = 3_000


@pytest.mark.long
def test_another_tenants_order_is_set_aside_before_the_backlog_ahead_of_it(
    system: System, shop: Shop
) -> None:
    with system.shop() as other:
        shop.order(_BACKLOG)
        shop.until(lambda: shop.outcomes()["pending"] < _BACKLOG, "the backlog to be begun")
        other.order(1)
        other.until(lambda: not other.outcomes()["pending"], "the other's order to be set aside")
        assert shop.outcomes()["pending"] > 0, "it came after the whole backlog"
        other.until_settled()
        shop.until_settled()
        assert_invariants(other)
    assert_invariants(shop)
