"""The way to Redis may be cut, go silent or crawl: work goes on as far as it can, and once."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import System, Wired
from tests.harness.invariants import assert_invariants
from tests.harness.proxy import Proxy
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults


@pytest.mark.row(number=11)
def test_a_network_that_resets_every_connection_to_the_broker_ends_no_process(
    wired: Wired, wired_shop: Shop
) -> None:
    node, relay = wired.worker.pid, wired.relay.pid
    wired_shop.order(300)
    resets = 0
    for charges in range(1, 200, 20):
        wired_shop.until_charged(charges)
        resets += wired.to_valkey.reset()
    wired_shop.until_settled()
    print(f"{resets} connections reset")  # noqa: T201 - see -rP
    assert (wired.worker.pid, wired.worker.status) == (node, None)
    assert (wired.relay.pid, wired.relay.status) == (relay, None)
    assert_invariants(wired_shop)


@pytest.mark.long
@pytest.mark.row(number=12)
@pytest.mark.parametrize(
    "cure",
    [
        pytest.param("the old ways end", id="only new connections lead anywhere"),
        pytest.param("heals", id="all connections come back to life"),
    ],
)
def test_a_worker_whose_way_to_the_broker_is_a_black_hole_is_back_within_fifteen_seconds(
    system: System, shop: Shop, cure: str
) -> None:
    system.worker.stop()
    with Proxy(system.valkey.port) as way:
        settings = {"GOODSYARD_REDIS_URL": way.url(system.valkey.url)}
        with system.cluster.worker(processes=2, settings=settings) as worker:
            worker.until_ready()
            node = worker.pid
            shop.order(100)
            shop.until_charged(20)
            if cure == "heals":
                way.fall_silent()
                silent_until = time.monotonic() + 20
                shop.until(lambda: time.monotonic() > silent_until, "the silence to end")
                way.heal()
            else:
                way.forget()
            began = time.monotonic()
            shop.order(10)
            shop.until(lambda: not shop.outcomes()["pending"], "the new orders to be taken up")
            took = time.monotonic() - began
            print(f"back to work after {took:.1f} s")  # noqa: T201 - see -rP
            assert took < 15
            shop.until_settled()
            assert (worker.pid, worker.status) == (node, None)
    assert_invariants(shop)


@pytest.mark.long
@pytest.mark.row(number=13)
@pytest.mark.parametrize(
    ("orders", "delay", "rate"),
    [
        pytest.param(60, 0.2, None, id="200 ms"),
        pytest.param(60, 0.2, 1_000, id="200 ms and 1 kB a second"),
    ],
)
def test_over_a_slow_network_to_the_broker_jobs_are_not_sent_again_and_again(
    wired: Wired, wired_shop: Shop, orders: int, delay: float, rate: float | None
) -> None:
    wired.to_valkey.slow(delay=delay, rate=rate)
    wired_shop.order(orders)
    wired_shop.until(wired_shop.is_settled, "all orders to come to their end", 200)
    [sent] = wired_shop.rows("""
        SELECT sum(fence)::float / count(*) AS a_job, max(lost) AS lost
          FROM goodsyard.job_done WHERE tenant = %(tenant)s""")
    print(f"sent {sent['a_job']:.2f} times a job")  # noqa: T201 - see -rP
    assert sent["a_job"] < 1.2
    assert_invariants(wired_shop)
