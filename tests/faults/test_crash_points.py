"""A process may be killed at any line that matters: what it had in hand is carried out once."""

from __future__ import annotations

import signal

import pytest
from redis import Redis

from tasks.contracts import QUEUES
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop
from tests.processes import living

pytestmark = pytest.mark.faults

ORDERS = 40


@pytest.mark.row(number=1)
@pytest.mark.parametrize(
    ("point", "queues"),
    [
        pytest.param("after_claim", ("orders", "payments"), marks=pytest.mark.long),
        pytest.param("before_settle", ("payments", "notifications"), marks=pytest.mark.long),
        ("before_commit", ("orders", "payments")),
        ("after_commit", ("orders", "payments")),
    ],
)
def test_a_worker_killed_at_any_point_loses_nothing_and_charges_nobody_twice(
    system: System, shop: Shop, point: str, queues: tuple[str, ...]
) -> None:
    settings = {"GOODSYARD_FAILPOINT": point}
    doomed = [system.cluster.worker(queues=[queue], settings=settings) for queue in queues]
    system.cluster.until_ready()
    processes = [child for node in doomed for child in node.offspring]

    def have_died() -> bool:
        if shop.is_settled():
            shop.order(ORDERS)  # at first, and again should others have taken all of it
        return not living(processes)

    shop.until(have_died, f"{processes} to have died {point}")
    for node in doomed:
        node.kill()  # else the next process it forks dies there too

    shop.until_settled()
    # After a commit nothing is left to bring back, but for the calls that were still under way.
    assert shop.most_lost() == 1 or point == "after_commit"
    assert_invariants(shop)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before_dispatch_commit", marks=pytest.mark.long),
        pytest.param("after_dispatch_commit", marks=pytest.mark.row(number=37)),
    ],
)
def test_a_relay_killed_at_any_point_loses_nothing(system: System, shop: Shop, point: str) -> None:
    system.worker.terminate()  # so that whatever is sent stays where it can be seen
    system.worker.until_ended()
    system.relay.kill()
    shop.order(ORDERS)
    doomed = system.cluster.relay({"GOODSYARD_FAILPOINT": point})
    assert doomed.until_ended() == -signal.SIGKILL
    with Redis.from_url(system.valkey.url) as redis:
        assert not any(redis.llen(queue) for queue in QUEUES), "sent ahead of its commit"

    system.worker.start()
    system.relay.start()
    shop.until_settled()
    assert_invariants(shop)
