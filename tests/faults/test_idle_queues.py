"""An outage of all workers kills no job: whatever nobody could have run waits for somebody."""

from __future__ import annotations

import pytest
from redis import Redis

from goodsyard.dispatch import DISPATCH_SECONDS
from tasks.contracts import QUEUES
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults


@pytest.mark.long
@pytest.mark.row(number=6)
@pytest.mark.parametrize("deadlines", [1, 10])
def test_jobs_that_no_worker_was_there_for_are_neither_lost_nor_dead_and_run_once_one_is(
    system: System, shop: Shop, deadlines: int
) -> None:
    system.worker.stop()
    shop.order(50)
    shop.until(lambda: {job["state"] for job in shop.jobs()} == {"dispatched"}, "them to be sent")
    with Redis.from_url(system.valkey.url) as redis:
        redis.delete(*QUEUES)  # nor does a message in its queue speak for them

    # The first deadline is there to be missed; two seconds more see two sweeps.
    late = (deadlines - 1) * DISPATCH_SECONDS + 2
    overdue = "SELECT min(extract(epoch FROM now() - deadline)) FROM goodsyard.job"
    overdue += " WHERE tenant = %(tenant)s"
    shop.until(lambda: (shop.value(overdue) or 0) > late, f"{deadlines} deadlines to be missed")
    assert [(job["state"], job["count"], job["lost"]) for job in shop.jobs()] == [
        ("dispatched", 50, 0)
    ]

    system.worker.start()
    shop.until_settled()
    assert_invariants(shop)
