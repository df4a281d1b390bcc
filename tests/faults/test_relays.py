"""Any number of relays share the work, and one that stands still holds up the others briefly."""

from __future__ import annotations

from functools import partial

import pytest

from goodsyard.contracts import Rate
from goodsyard.limits import set_limit
from tasks.contracts import ChargePayment
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.pace import Pace
from tests.harness.shop import Shop

pytestmark = [pytest.mark.faults, pytest.mark.row(number=36)]

RATE = Rate("50/second", burst=20)

SECONDS_HELD = 10.0
"""The longest that a relay which stops in the middle of a transaction may hold a limit's row: the
5 s after which Postgres ends its session, and the others' pauses after what they waited for."""


@pytest.mark.long
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("", id="somewhere"),
        pytest.param("before_dispatch_commit@5:stop", id="while it holds the limit"),
    ],
)
def test_of_five_relays_one_may_stand_still_and_the_rate_is_held_and_nobody_starves(
    system: System, shop: Shop, moment: str
) -> None:
    system.relay.stop()
    shop.transact(partial(set_limit, name=ChargePayment.kind, limit=RATE))
    try:
        with (
            system.cluster.relay({"GOODSYARD_FAILPOINT": moment}) as sleeper,
            system.cluster.relay(),
        ):
            shop.order(600)
            shop.until_charged(50)
            if not moment:
                sleeper.freeze()
            with system.cluster.relay(), system.cluster.relay(), system.cluster.relay():
                shop.until(
                    lambda: not shop.outcomes().keys() & {"pending", "reserved"}, "all charges"
                )
                shop.until_settled()
            sleeper.thaw()
    finally:
        shop.transact(partial(set_limit, name=ChargePayment.kind, limit=None))
    assert_invariants(shop)
    pace = Pace.of(shop.charges(), RATE)
    print(pace)  # noqa: T201 - see -rP
    assert pace.ahead <= RATE.per_second + RATE.capacity
    assert pace.longest_gap < SECONDS_HELD
