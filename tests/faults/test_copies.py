"""A message may come ten times, late, or for another job: each is run once, as it was sent."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from celery import Celery
from redis import Redis
from sqlalchemy.engine import make_url

from tasks.contracts import ALL, QUEUES, ProcessOrder
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

QUEUE_OF = {contract.kind: contract.policy.queue for contract in ALL}


@pytest.mark.row(number=29)
def test_ten_copies_for_three_workers_at_once_take_effect_once_and_no_claim_waits(
    system: System, shop: Shop, redis: Redis, stranger: Celery
) -> None:
    copied: dict[str, set[tuple[str, int]]] = defaultdict(set)

    def copy_and_look() -> bool:
        for kind, jobs in _out_for_delivery(shop).items():
            if new := [job for job in jobs if job not in copied[kind]]:
                for _ in range(10):
                    _send(stranger, kind, new)
                copied[kind].update(new)
        return shop.is_settled()

    # One of the three stops where it has claimed and not yet committed. Whoever gets a copy then
    # must not wait for it: every worker would, one after the other.
    stops = {"GOODSYARD_FAILPOINT": "after_claim:stop"}
    dropped = shop.dropped()
    with (
        system.cluster.worker(processes=2) as second,
        system.cluster.worker(queues=["orders"], settings=stops) as third,
        _waits_for_jobs(system) as waits,
    ):
        second.until_ready()
        third.until_ready()
        shop.order(300)
        shop.until(copy_and_look, "all orders to come to their end")
        assert copied.keys() >= {"orders.process", "payments.charge", "notifications.email"}
        shop.until(lambda: not any(redis.llen(queue) for queue in QUEUES), "the copies to be read")
        third.kill()
    absorbed = shop.dropped() - dropped
    copies = 10 * sum(map(len, copied.values()))
    print(f"{copies} copies of deliveries, {absorbed['stale']} absorbed")  # noqa: T201 - see -rP
    assert not waits
    assert absorbed["stale"] > copies / 2, "a copy may run and its original be dropped"
    assert absorbed.keys() == {"stale"}
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


def _send(stranger: Celery, kind: str, jobs: list[tuple[str, int]]) -> None:
    message = {"v": 1, "jobs": jobs}
    stranger.send_task(kind, kwargs=message, queue=QUEUE_OF[kind], ignore_result=True)


@contextmanager
def _waits_for_jobs(system: System) -> Iterator[list[str]]:
    """Fill the list, at the end, with all waits of more than 50 ms for the row of a job."""
    url = make_url(system.postgres.url).set(drivername="postgresql")
    began = system.postgres.log.stat().st_size
    waits: list[str] = []
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET deadlock_timeout = '50ms'")
        admin.execute("ALTER SYSTEM SET log_lock_waits = on")
        admin.execute("SELECT pg_reload_conf()")
        try:
            yield waits
        finally:
            admin.execute("ALTER SYSTEM RESET ALL")
            admin.execute("SELECT pg_reload_conf()")
    said = system.postgres.log.read_bytes()[began:].decode(errors="replace")
    waits += re.findall(r'while locking tuple \S+ in relation "job"', said)


@pytest.mark.row(number=30)
@pytest.mark.long
@pytest.mark.parametrize("kind", ["orders.process", "payments.charge"])
def test_a_message_under_an_old_fence_or_for_another_kind_runs_nothing(
    system: System, shop: Shop, redis: Redis, stranger: Celery, kind: str
) -> None:
    system.worker.stop()
    shop.order(10)
    if kind != ProcessOrder.kind:
        with system.cluster.worker(queues=["orders"]):
            shop.until(lambda: not shop.outcomes()["pending"], "the orders to come so far")
    shop.until(lambda: kind in _out_for_delivery(shop), "them to be sent")
    system.relay.kill()
    # As after a lost message: the job was sent again, and nobody has the second message yet.
    old = _out_for_delivery(shop)[kind]
    shop.rows("UPDATE goodsyard.job SET fence = fence + 1 WHERE tenant = %(tenant)s RETURNING id")
    redis.delete(*QUEUES)

    dropped, stands = shop.dropped(), shop.jobs()
    other = next(name for name in QUEUE_OF if name != kind)
    new = _out_for_delivery(shop)[kind]
    system.worker.start()
    system.worker.until_ready()
    _send(stranger, kind, old)
    _send(stranger, other, new)
    shop.until(
        lambda: shop.dropped() - dropped == {"stale": len(old) + len(new)}, "both to be dropped"
    )
    assert [(job["state"], job["count"]) for job in shop.jobs()] == [
        (job["state"], job["count"]) for job in stands
    ]
    assert not shop.charges()

    system.relay.start()
    shop.until_settled()
    assert_invariants(shop)
