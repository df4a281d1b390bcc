"""To Celery, Goodsyard is a broker and workers like any other; restarting one loses nothing."""

from __future__ import annotations

from pytest_celery import CeleryTestSetup

from tasks.contracts import ALL, QUEUES
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop


def test_an_order_goes_all_the_way_on_a_worker_node(
    celery_setup: CeleryTestSetup, shop: Shop
) -> None:
    assert celery_setup.ready(control=True)
    assert celery_setup.backend is None
    shop.order(10)
    shop.until_settled()
    assert_invariants(shop)


def test_every_kind_of_job_is_a_registered_task(celery_setup: CeleryTestSetup) -> None:
    worker = celery_setup.worker.hostname()
    registered = celery_setup.app.control.inspect([worker], timeout=10).registered()
    assert {*registered[worker]} == {contract.kind for contract in ALL}


def test_a_worker_consumes_the_five_queues(celery_setup: CeleryTestSetup) -> None:
    worker = celery_setup.worker.hostname()
    queues = celery_setup.app.control.inspect([worker], timeout=10).active_queues()
    assert {queue["name"] for queue in queues[worker]} == {*QUEUES}


def test_a_worker_node_that_is_restarted_goes_on(celery_setup: CeleryTestSetup, shop: Shop) -> None:
    shop.order(100)
    shop.until_charged(10)
    celery_setup.worker.restart(force=True)
    shop.until_settled()
    assert_invariants(shop)


def test_a_worker_node_that_is_killed_is_replaced_by_its_next_start(
    celery_setup: CeleryTestSetup, shop: Shop
) -> None:
    shop.order(100)
    shop.until_charged(10)
    celery_setup.worker.kill()
    assert celery_setup.worker.container.status == "exited"
    celery_setup.worker.restart()
    shop.until_settled()
    assert_invariants(shop)


def test_a_broker_node_that_is_restarted_empty_is_filled_again(
    celery_setup: CeleryTestSetup, shop: Shop
) -> None:
    shop.order(100)
    shop.until_charged(10)
    celery_setup.broker.restart()
    shop.until_settled()
    assert_invariants(shop)
