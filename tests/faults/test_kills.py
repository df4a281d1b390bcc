"""Workers may be killed or frozen at any moment: others finish what they had begun, once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.programs import PATIENCE
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults


@pytest.mark.row(number=1)
def test_worker_nodes_killed_in_the_middle_lose_nothing_and_charge_nobody_twice(
    system: System, shop: Shop
) -> None:
    first, second = sorted(random.sample(range(10, 200), 2))
    print(f"kills after {first} and {second} charges")  # noqa: T201 - shown where the test fails
    other = system.cluster.worker(processes=2)
    other.until_ready()

    shop.order(300)
    shop.until_charged(first)
    other.kill()
    shop.until_charged(second)
    system.worker.kill()
    assert not shop.is_settled(), "it was to be killed in the middle"
    system.worker.start()

    shop.until_settled()
    assert_invariants(shop)


@pytest.mark.row(number=1)
@pytest.mark.long
def test_what_a_killed_worker_had_in_hand_is_sent_again_within_ten_seconds(
    system: System, shop: Shop, measured: Callable[[str, float], None]
) -> None:
    other = system.cluster.worker(processes=1)
    other.until_ready()
    shop.order(300)
    shop.until_charged(20)
    system.worker.freeze()  # so that what it has in hand stays there
    held = _in_hand(shop)
    system.worker.kill()
    began = time.monotonic()
    shop.until(lambda: not held & _in_hand(shop), f"{len(held)} jobs to be sent again")
    took = time.monotonic() - began
    measured(f"{len(held)} jobs in hand, sent again after", took)
    assert held
    assert took < 10

    system.worker.start()
    shop.until_settled()
    other.terminate()
    other.until_ended()
    assert_invariants(shop)


def _in_hand(shop: Shop) -> set[tuple[object, object]]:
    """Return jobs and fences of what is with a worker, or on its way to one."""
    query = (
        "SELECT id, fence FROM goodsyard.job"
        " WHERE tenant = %(tenant)s AND state IN ('dispatched', 'running')"
    )
    return {(row["id"], row["fence"]) for row in shop.rows(query)}


@pytest.mark.row(number=2)
def test_a_killed_worker_process_takes_no_neighbour_with_it_and_is_replaced(
    system: System, shop: Shop
) -> None:
    before = system.worker.offspring
    shop.order(100)
    shop.until_charged(20)
    os.kill(before[0], signal.SIGKILL)

    shop.until_settled()
    assert system.worker.status is None
    assert before[1] in system.worker.offspring
    shop.until(lambda: len(system.worker.offspring) == 2, "a new process in its place")
    assert_invariants(shop)


@pytest.mark.row(number=3)
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(0, id="as soon as that"),
        # Past its leases, and past the time limit within which its parent would have killed it.
        pytest.param(90, id="after 90 s"),
    ],
)
def test_a_worker_that_wakes_up_when_others_have_finished_its_jobs_changes_nothing(
    system: System, shop: Shop, seconds: float
) -> None:
    sleeper = system.cluster.worker(processes=2)
    sleeper.until_ready()
    shop.order(200)
    shop.until_charged(50)
    sleeper.freeze()
    wakes_at = time.monotonic() + seconds
    shop.until_settled()
    shop.until(lambda: time.monotonic() >= wakes_at, f"{seconds} s to pass", seconds + PATIENCE)
    sleeper.thaw()
    sleeper.terminate()  # by then it has brought its late answers in
    assert sleeper.until_ended() == 0
    assert_invariants(shop)
