"""A rate set on a kind holds for the whole cluster, as the provider sees it."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from itertools import combinations

from goodsyard.contracts import Rate
from goodsyard.limits import set_limit
from tasks.contracts import ChargePayment
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

RATE = Rate("50/second")


def test_fifty_payments_a_second_are_held_across_two_workers_and_two_relays(
    system: System, shop: Shop
) -> None:
    set_rate = partial(set_limit, name=ChargePayment.kind)
    shop.transact(partial(set_rate, limit=RATE))
    system.relay.kill()
    system.relay.start()
    with system.cluster.relay(), system.cluster.worker(processes=2) as second:
        second.until_ready()
        shop.order(300)
        shop.until_settled()
    shop.transact(partial(set_rate, limit=None))

    assert_invariants(shop)
    starts = [datetime.fromisoformat(charge["at"]).timestamp() for charge in shop.charges()]
    # The most charges in any window, beyond what the rate alone allows for its length.
    excess = max(
        number - RATE.per_second * (end - begin)
        for (first, begin), (last, end) in combinations(enumerate(starts), 2)
        for number in [last - first + 1]
    )
    pace = (len(starts) - 1) / (starts[-1] - starts[0])
    print(f"{pace:.1f} a second, at most {excess:.1f} ahead of the rate")  # noqa: T201 - see -rP
    assert excess <= RATE.per_second + RATE.capacity
    assert pace >= 0.9 * RATE.per_second
