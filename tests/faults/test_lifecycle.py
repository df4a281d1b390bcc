"""A worker starts only if it can do its work, and ends with its work done or handed back."""

from __future__ import annotations

import base64
import json

from redis import Redis

from goodsyard.messages import parse
from tasks.contracts import QUEUES
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

# A worker whose flow has one kind of job more than it has handlers.
FORGETFUL = """
import sys
from typing import ClassVar
from goodsyard.contracts import Contract, Effect, Policy
from tasks import contracts

class Forgotten(Contract):
    kind: ClassVar[str] = "orders.forgotten"
    effect: ClassVar[Effect] = Effect.DATABASE
    policy: ClassVar[Policy] = Policy(queue="orders")

contracts.ALL += (Forgotten,)
from celery.__main__ import main
sys.argv = ["celery", "--app", "workers.app", "worker", "--hostname", "forgetful@test"]
main()
"""


def test_a_worker_told_to_end_finishes_what_it_has_begun_and_hands_back_the_rest(
    system: System, shop: Shop
) -> None:
    processes = system.worker.offspring
    shop.order(500)
    shop.until_charged(50)
    system.worker.terminate()
    system.relay.terminate()  # so that what is found now stays as it is
    assert system.worker.until_ended() == 0
    assert system.relay.until_ended() == 0

    left = shop.rows(
        "SELECT id::text, fence, state::text, kind, deadline FROM goodsyard.job"
        " WHERE tenant = %(tenant)s AND state IN ('dispatched', 'running')"
    )
    assert {row["state"] for row in left} <= {"dispatched"}, "something was begun and not finished"
    # But for one message at the most: what Celery's parent process has taken and not yet written
    # to a child, it drops (celery/concurrency/asynpool.py, `flush`). Its deadline brings it back.
    queued = _in_queues(system)
    dropped = {
        (row["kind"], row["deadline"]) for row in left if (row["id"], row["fence"]) not in queued
    }
    assert len(dropped) <= 1
    assert not shop.rows(
        "SELECT pid FROM goodsyard.worker WHERE pid = ANY(%(pids)s)", pids=processes
    ), "it said good-bye"

    system.worker.start()
    system.relay.start()
    shop.until_settled()
    assert_invariants(shop)


def _in_queues(system: System) -> set[tuple[str, int]]:
    """Return the ids and fences of all jobs that a worker to come will find in Redis."""
    with Redis.from_url(system.valkey.url) as redis:
        messages = [message for queue in QUEUES for message in redis.lrange(queue, 0, -1)]
    bodies = [json.loads(base64.b64decode(json.loads(message)["body"])) for message in messages]
    sent = [parse(kwargs["v"], kwargs["jobs"]) for _, kwargs, _ in bodies]
    return {(str(job), fence) for deliveries in sent for job, fence in deliveries}


def test_a_worker_without_a_setting_ends_at_once_and_names_it(system: System) -> None:
    names = [f"GOODSYARD_{name}" for name in ("DATABASE_URL", "GATEWAY_KEY", "SMTP_URL")]
    workers = {name: system.cluster.worker(settings={name: ""}) for name in names}
    for name, worker in workers.items():
        assert worker.until_ended() != 0
        assert f"{name} is missing. A good value: " in worker.said
        assert "Traceback" not in worker.said


def test_a_worker_that_lacks_a_handler_ends_at_once_and_names_the_kind(system: System) -> None:
    worker = system.cluster.start(system.cluster.program("forgetful", "-c", FORGETFUL))
    assert worker.until_ended() != 0
    assert "no handler for orders.forgotten" in worker.said
