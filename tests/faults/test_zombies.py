"""A worker that is stopped and wakes up later is harmless: it holds no lock, and nothing waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.programs import Running
from tests.harness.shop import Row, Shop
from tests.processes import frozen

pytestmark = pytest.mark.faults

LOCKS_FREED_SECONDS = 10.0
"""The longest a transaction may stay open whose client has stopped."""


@contextmanager
def stopping(system: System, point: str) -> Iterator[Running]:
    """Have a worker node of one process that stops at a failpoint, and wakes up in the end."""
    with system.cluster.worker(settings={"GOODSYARD_FAILPOINT": f"{point}:stop"}) as node:
        node.until_ready()
        yield node


@pytest.mark.row(number=3)
def test_an_answer_that_a_zombie_brings_is_dropped_while_another_worker_asks_again(
    system: System, shop: Shop
) -> None:
    def charge() -> Row:
        [row] = shop.rows(
            "SELECT state::text, fence, claimed_by FROM goodsyard.job"
            " WHERE tenant = %(tenant)s AND kind = 'payments.charge'"
        )
        return row

    system.worker.terminate()
    with stopping(system, "before_settle") as zombie:
        [process] = zombie.offspring
        assert system.worker.until_ended() == 0
        order = NewOrder(shop.user, "EUR", [Line("CD", 1, 500)], "pm_card_visa", {})
        shop.expected[order.id] = "paid"
        shop.hand_in([order])
        shop.until(lambda: frozen(process), "the answer to be there, not yet written down")
        zombie.freeze()
        of_the_zombie = charge()
        assert len(shop.charges()) == 1

        # The next one to ask has to wait for its answer until the zombie has brought its own.
        system.cluster.provider.freeze()
        try:
            system.worker.start()
            shop.until(
                lambda: charge()["state"] == "running" and charge()["fence"] > 1,
                "another worker to take the charge over",
            )
            taken_over = charge()
            zombie.thaw()
            zombie.terminate()
            assert zombie.until_ended() == 0
            assert charge() == taken_over, "an answer under an old fence was written down"
        finally:
            system.cluster.provider.thaw()

    assert of_the_zombie["claimed_by"] != taken_over["claimed_by"]
    shop.until_settled()
    assert shop.most_lost() == 1
    assert_invariants(shop)


@pytest.mark.row(number=4)
@pytest.mark.long
def test_a_worker_stopped_in_a_transaction_holds_its_locks_for_ten_seconds_at_the_most(
    system: System, shop: Shop
) -> None:
    with stopping(system, "before_commit") as node:
        [process] = node.offspring

        def has_stopped() -> bool:
            if shop.is_settled():
                shop.order(40)  # at first, and again should the other have taken all of it
            return frozen(process)

        shop.until(has_stopped, f"{process} to stop before its commit")
        began, stopped_at = time.monotonic(), shop.value("SELECT clock_timestamp()")
        node.freeze()
        still_open = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'goodsyard worker' AND xact_start <= %(stopped_at)s"
        )
        assert shop.value(still_open, stopped_at=stopped_at) > 0
        shop.until(
            lambda: shop.value(still_open, stopped_at=stopped_at) == 0,
            "Postgres to end its transaction",
            LOCKS_FREED_SECONDS,
        )
        print(f"locks freed after {time.monotonic() - began:.1f} s")  # noqa: T201 - see -rP
        shop.until_settled()
        node.thaw()
        node.terminate()
        assert node.until_ended() == 0
    assert_invariants(shop)
