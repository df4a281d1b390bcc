"""A rate set on a kind holds for the whole cluster, as the provider sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from goodsyard.contracts import Rate
from goodsyard.interventions import Actor, pause_queue
from goodsyard.limits import set_limit
from tasks.contracts import ChargePayment
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.pace import Pace
from tests.harness.shop import Shop
from tests.processes import wait_until


@pytest.fixture
def limited(system: System, shop: Shop) -> Iterator[Callable[[Rate], None]]:
    """A way to limit charges, known to all relays from then on; the limit ends with the test."""

    def limit(rate: Rate) -> None:
        system.relay.kill()
        shop.transact(partial(set_limit, name=ChargePayment.kind, limit=rate))
        system.relay.start()

    yield limit
    shop.transact(partial(set_limit, name=ChargePayment.kind, limit=None))


@pytest.mark.long
def test_fifty_payments_a_second_are_held_across_two_workers_and_two_relays(
    system: System, shop: Shop, limited: Callable[[Rate], None]
) -> None:
    def hold(queue: str, *, paused: bool) -> None:
        actor = Actor(shop.tenant, "tests")
        shop.transact(partial(pause_queue, actor=actor, name=queue, paused=paused))

    rate = Rate("50/second", burst=20)  # outlasts the moments for which a busy machine forgets us
    # One kind after the other: they must not compete for what cores there are.
    hold("payments", paused=True)
    hold("notifications", paused=True)
    limited(rate)
    with system.cluster.relay(), system.cluster.worker(processes=2) as second:
        second.until_ready()
        shop.order(300)
        shop.until(lambda: not shop.outcomes()["pending"], "all goods to be set aside")
        hold("payments", paused=False)
        shop.until(lambda: not shop.outcomes()["reserved"], "all orders to be charged")
        hold("notifications", paused=False)
        shop.until_settled()

    assert_invariants(shop)
    pace = Pace.of(shop.charges(), rate)
    print(pace)  # noqa: T201 - see -rP
    assert pace.ahead <= rate.per_second + rate.capacity
    assert pace.a_second >= 0.9 * rate.per_second


@pytest.mark.long
def test_in_every_window_the_rate_is_held_while_workers_stop_and_die(
    system: System, shop: Shop, limited: Callable[[Rate], None]
) -> None:
    rate = Rate("50/second", burst=20)
    limited(rate)
    cluster = system.cluster
    with cluster.relay() as relay, cluster.worker() as second, cluster.worker() as third:
        second.until_ready()
        third.until_ready()
        shop.order(1_000)
        shop.until_charged(100)
        second.freeze()
        thaw_at = shop.value("SELECT clock_timestamp() + interval '3 seconds'")
        wait_until(lambda: shop.value("SELECT clock_timestamp() >= %(at)s", at=thaw_at), "3 s", 30)
        second.thaw()
        shop.until_charged(300)
        third.kill()
        third.start()
        relay.kill()
        relay.start()
        shop.until(lambda: not shop.outcomes().keys() & {"pending", "reserved"}, "all charges")
        shop.until_settled()

    assert_invariants(shop)
    pace = Pace.of(shop.charges(), rate)
    print(pace)  # noqa: T201 - see -rP
    assert pace.ahead <= rate.per_second + rate.capacity
    # The killed worker's calls come after all others, so here the rate is reached but for those.
    assert pace.a_second >= 0.8 * rate.per_second
