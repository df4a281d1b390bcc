"""Redis may forget everything, repeat anything or hold nonsense: no job depends on a message."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from celery import Celery
from redis import Redis

from tasks.contracts import ALL, QUEUES
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

QUEUE_OF = {contract.kind: contract.policy.queue for contract in ALL}

STRANGER = "01980000-0000-7000-8000-000000000000"
"""The id of no job."""


@pytest.fixture
def redis(system: System) -> Iterator[Redis]:
    with Redis.from_url(system.valkey.url) as client:
        yield client


@pytest.fixture
def stranger(system: System) -> Iterator[Celery]:
    """Somebody else's Celery app on our broker."""
    with Celery(broker=system.valkey.url, set_as_current=False) as app:
        yield app


def test_a_flushed_broker_loses_nothing_and_is_filled_again_within_three_seconds(
    system: System, shop: Shop, redis: Redis
) -> None:
    flushed = 0
    with system.cluster.relay():
        shop.order(600)
        for charges in (1, 100, 200, 300):
            shop.until_charged(charges)
            flushed += _flush(redis)
            began = time.monotonic()
            _until_sent_again(shop)
            assert time.monotonic() - began < 3
    assert flushed > 0, "no message was there to be lost"

    shop.until_settled()
    assert shop.most_lost() == 0, "Redis forgot them: no worker is to blame"
    assert_invariants(shop)


def _flush(redis: Redis) -> int:
    """Empty Redis, and return how many messages it held."""
    with redis.pipeline(transaction=True) as pipe:
        for queue in QUEUES:
            pipe.llen(queue)
        pipe.flushall()
        *lengths, _ = pipe.execute()
    return sum(lengths)


def _until_sent_again(shop: Shop) -> None:
    """Wait until nothing waits for a worker under the message it was last sent with."""
    query = "SELECT id, fence FROM goodsyard.job WHERE tenant = %(tenant)s AND state = 'dispatched'"

    def dispatched() -> set[tuple[object, object]]:
        return {(row["id"], row["fence"]) for row in shop.rows(query)}

    sent = dispatched()
    shop.until(lambda: not sent & dispatched(), f"{len(sent)} jobs to be sent again")


def test_copies_of_a_message_change_nothing(shop: Shop, redis: Redis, stranger: Celery) -> None:
    copied: Counter[str] = Counter()

    def copy_and_look() -> bool:
        for kind, jobs in _out_for_delivery(shop).items():
            for _ in range(5):
                message = {"v": 1, "jobs": jobs}
                stranger.send_task(kind, kwargs=message, queue=QUEUE_OF[kind], ignore_result=True)
            copied[kind] += len(jobs)
        return shop.is_settled()

    shop.order(300)
    shop.until(copy_and_look, "all orders to come to their end")
    assert copied.keys() >= {"orders.process", "payments.charge", "notifications.email"}
    shop.until(lambda: not any(redis.llen(queue) for queue in QUEUES), "the copies to be read")
    assert shop.most_lost() == 0
    assert_invariants(shop)


def _out_for_delivery(shop: Shop) -> dict[str, list[tuple[str, int]]]:
    """Return ids and fences of what is being carried out, or about to be, by kind."""
    rows = shop.rows(
        "SELECT kind, id::text, fence FROM goodsyard.job"
        " WHERE tenant = %(tenant)s AND state IN ('dispatched', 'running')"
    )
    kinds: dict[str, list[tuple[str, int]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append((row["id"], row["fence"]))
    return kinds


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x00\xff not JSON at all", id="no JSON"),
        pytest.param(b"{}", id="an empty object"),
    ],
)
def test_what_is_no_message_costs_at_the_most_a_restart(
    system: System, shop: Shop, redis: Redis, garbage: bytes
) -> None:
    restarts = 0

    def supervised() -> bool:
        nonlocal restarts
        if system.worker.status is not None:
            restarts += 1
            system.worker.start()
        return shop.is_settled()

    redis.lpush("orders", garbage)
    shop.order(10)
    shop.until(supervised, "all orders to come to their end")
    print(f"the worker ended, and was started again, {restarts} times")  # noqa: T201 - see -rP
    assert restarts <= 1
    assert_invariants(shop)


def _envelope(**changes: object) -> bytes:
    """Return a message as kombu writes it, changed for the worse."""
    message = {
        "body": base64.b64encode(json.dumps([[], {}, {}]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "orders.process", "id": STRANGER, "argsrepr": "()"},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "orders"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": STRANGER,
        },
    }
    return json.dumps(message | changes).encode()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(_envelope(body="%%%"), id="a body that is no base64"),
        pytest.param(_envelope(body="NQ=="), id="a body that is a number"),
        pytest.param(_envelope(body="e30="), id="a body that is an object"),
        pytest.param(_envelope(**{"content-type": "application/x-python-serialize"}), id="pickle"),
        pytest.param(_envelope(headers={}), id="no task"),
        pytest.param(_envelope(headers={"task": []}), id="a list for a task"),
        pytest.param(_envelope(headers={"task": "orders.unheard_of"}), id="a task without an id"),
        pytest.param(_envelope(headers={"task": "orders.process", "id": {}}), id="an odd id"),
    ],
)
def test_a_message_that_cannot_be_read_is_dropped_and_its_worker_goes_on(
    system: System, shop: Shop, redis: Redis, message: bytes
) -> None:
    processes = system.worker.offspring
    redis.lpush("orders", message)
    shop.order(10)
    shop.until_settled()
    assert system.worker.offspring == processes
    assert_invariants(shop)


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        pytest.param("orders.unheard_of", {"v": 1, "jobs": []}, id="an unknown kind"),
        pytest.param("orders.process", {}, id="nothing"),
        pytest.param("orders.process", {"v": 99, "jobs": []}, id="another version"),
        pytest.param("orders.process", {"v": 1, "jobs": "many"}, id="no list"),
        pytest.param("orders.process", {"v": 1, "jobs": [["x", 1]]}, id="no id"),
        pytest.param("orders.process", {"v": 1, "jobs": [[STRANGER, None]]}, id="no fence"),
        pytest.param("orders.process", {"v": 1, "jobs": [[STRANGER, 1]]}, id="an unknown job"),
        pytest.param("orders.process", {"v": 1, "jobs": [[STRANGER, 2**40]]}, id="a huge fence"),
        pytest.param("payments.charge", {"v": 1, "jobs": [[STRANGER, 1]]}, id="an unknown charge"),
    ],
)
def test_a_message_that_makes_no_sense_is_dropped_and_its_worker_goes_on(
    system: System, shop: Shop, stranger: Celery, task: str, kwargs: dict[str, object]
) -> None:
    processes = system.worker.offspring
    stranger.send_task(task, kwargs=kwargs, queue="orders", ignore_result=True)
    shop.order(10)
    shop.until_settled()
    assert system.worker.offspring == processes
    assert_invariants(shop)
