"""Redis may be restarted empty or cut off at any moment: no worker ends, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from ops.embedded.ports import LOOPBACK, free_port
from tests.faults.conftest import System
from tests.harness.caller import Caller
from tests.harness.invariants import assert_invariants
from tests.harness.programs import PATIENCE, Running
from tests.harness.shop import Shop
from tests.processes import wait_until

pytestmark = pytest.mark.faults


@pytest.mark.row(number=7)
@pytest.mark.long
def test_a_broker_restarted_empty_is_filled_again_within_three_seconds_and_ends_no_worker(
    system: System, shop: Shop
) -> None:
    node, relay = system.worker.pid, system.relay.pid
    took = []
    api = system.cluster.api()
    api.until_ready()
    with api, Caller(api, shop) as caller:
        shop.order(400)
        for charges in (50, 100, 150, 200, 250):
            shop.until_charged(charges)
            os.kill(system.valkey.pid, signal.SIGKILL)
            system.valkey.stop()
            caller.until_accepted(3)
            system.valkey.start()
            began = time.monotonic()
            shop.until_sent_again()
            took.append(time.monotonic() - began)
        caller.until_accepted(3)
    print(f"sent again after {max(took):.2f} s; {caller.accepted} accepted")  # noqa: T201 - see -rP
    assert max(took) < 3
    assert not caller.refused
    shop.until_settled()
    assert (system.worker.pid, system.worker.status) == (node, None)
    assert (system.relay.pid, system.relay.status) == (relay, None)
    assert_invariants(shop)


@pytest.mark.row(number=9)
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.long)])
def test_while_the_broker_is_away_orders_are_accepted_and_no_attempt_is_spent(
    system: System, shop: Shop, seconds: float
) -> None:
    api = system.cluster.api()
    api.until_ready()
    with api, Caller(api, shop) as caller:
        shop.order(300)
        shop.until_charged(50)
        system.valkey.stop()
        _until_passed(seconds, shop)
        caller.until_accepted(3)
        system.valkey.start()
        began = time.monotonic()
        charges = len(shop.charges())
        shop.until_charged(charges + 1)
        took = time.monotonic() - began
        caller.until_accepted(3)
    shop.until_settled()
    print(f"{caller.accepted} accepted, work again after {took:.1f} s")  # noqa: T201 - see -rP
    assert not caller.refused
    assert _most_attempts(shop) == 0
    assert shop.most_lost() <= 1, "only what was in hand when the broker went away"
    assert_invariants(shop)


@pytest.mark.long
@pytest.mark.row(number=10)
@pytest.mark.parametrize("seconds", [8, 30])
def test_a_broker_that_stops_answering_holds_up_neither_the_api_nor_a_process_for_ever(
    system: System, shop: Shop, seconds: float
) -> None:
    node, relay = system.worker.pid, system.relay.pid
    api = system.cluster.api()
    api.until_ready()
    with api, Caller(api, shop) as caller:
        shop.order(300)
        shop.until_charged(50)
        os.kill(system.valkey.pid, signal.SIGSTOP)
        try:
            shop.until(lambda: "relay.away" in system.relay.said, "the relay to give up waiting")
            _until_passed(seconds, shop)
        finally:
            os.kill(system.valkey.pid, signal.SIGCONT)
        began = time.monotonic()
        charges = len(shop.charges())
        shop.until_charged(charges + 1)
        took = time.monotonic() - began
        caller.until_accepted(3)
    shop.until_settled()
    slowest = max(caller.took)
    print(f"slowest answer {slowest:.2f} s, work again after {took:.1f} s")  # noqa: T201 - see -rP
    assert slowest < 2
    assert not caller.refused
    assert _most_attempts(shop) == 0
    assert (system.worker.pid, system.worker.status) == (node, None)
    assert (system.relay.pid, system.relay.status) == (relay, None)
    assert_invariants(shop)


@pytest.mark.row(number=14)
def test_a_broker_that_takes_no_writes_ends_no_worker_and_no_relay(
    system: System, shop: Shop
) -> None:
    node, relay = system.worker.pid, system.relay.pid
    with Redis.from_url(system.valkey.url) as redis:
        shop.order(400)
        shop.until_charged(50)
        redis.config_set("maxmemory", "1mb")
        shop.until(lambda: "maxmemory" in system.relay.said, "the relay to be told so")
        redis.config_set("maxmemory", "0")
        shop.until_charged(150)
        redis.replicaof(LOOPBACK, free_port())
        shop.until(lambda: "read only" in system.relay.said, "the relay to be told to read only")
        shop.until(lambda: "read only" in system.worker.said, "the worker to be told, too")
        redis.replicaof("NO", "ONE")
    shop.until_settled()
    assert (system.worker.pid, system.worker.status) == (node, None)
    assert (system.relay.pid, system.relay.status) == (relay, None)
    assert _most_attempts(shop) == 0
    assert_invariants(shop)


def _until_passed(seconds: float, shop: Shop) -> None:
    """Let an outage last so long."""
    end = time.monotonic() + seconds
    shop.until(lambda: time.monotonic() >= end, "the outage to end", 2 * seconds)


def _most_attempts(shop: Shop) -> int:
    """Return the most failures that any one job was charged with."""
    most: int = shop.value("""
        SELECT coalesce(max(attempts), 0)
          FROM (SELECT attempts FROM goodsyard.job WHERE tenant = %(tenant)s
                UNION ALL
                SELECT attempts FROM goodsyard.job_done WHERE tenant = %(tenant)s) AS jobs""")
    return most


@pytest.mark.row(number=11)
def test_a_broker_that_ends_every_connection_ends_no_worker(system: System, shop: Shop) -> None:
    node = system.worker.pid
    shop.order(300)
    with Redis.from_url(system.valkey.url) as redis:
        for charges in range(1, 200, 10):
            shop.until_charged(charges)
            redis.client_kill_filter(_type="normal", skipme=True)
            redis.client_kill_filter(_type="pubsub", skipme=True)
    shop.until_settled()
    assert (system.worker.pid, system.worker.status) == (node, None)
    assert_invariants(shop)


# Somebody else's worker: one task, which says that it has begun, and waits for a reader of a pipe.
_BYSTANDER = """
import sys
from celery import Celery
from kombu import Exchange, Queue

url, no_ack, acks_late, pipe = sys.argv[1:]
app = Celery(broker=url, set_as_current=False)
app.conf.task_queues = [Queue("waits", Exchange("waits"), "waits", no_ack=no_ack == "no_ack")]
app.conf.task_acks_late = acks_late == "acks_late"
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_cancel_long_running_tasks_on_connection_loss = False

@app.task(name="wait")
def wait():
    print("has begun", flush=True)
    with open(pipe, "w") as open_pipe:
        open_pipe.write("done")

flags = ["--without-gossip", "--without-mingle", "--concurrency=1"]
app.worker_main(["worker", *flags, "--hostname=bystander@test", "--loglevel=INFO"])
"""


@pytest.mark.row(number=11)
@pytest.mark.parametrize(
    ("no_ack", "acks_late", "survives"),
    [
        pytest.param("ack", "acks_late", False, id="acknowledged late"),
        pytest.param("no_ack", "acks_early", True, id="never acknowledged"),
    ],
)
def test_of_celerys_ways_to_acknowledge_ours_survives_the_loss_of_the_broker(
    system: System, tmp_path: Path, no_ack: str, acks_late: str, *, survives: bool
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    url = system.valkey.url
    program = system.cluster.program(
        "bystander", "-c", _BYSTANDER, url, no_ack, acks_late, str(pipe)
    )
    with Running(program, tmp_path / "log", "bystander@test ready.") as worker:
        worker.start()
        worker.until_ready()
        with Celery(broker=url, set_as_current=False) as sender:
            sender.send_task("wait", queue="waits", ignore_result=True)
            wait_until(lambda: "has begun" in worker.said, "the task to begin")
            os.kill(system.valkey.pid, signal.SIGKILL)
            system.valkey.stop()
            lost = "Cannot connect" if survives else "Unrecoverable error"
            wait_until(lambda: lost in worker.said, lost, PATIENCE)
            system.valkey.start()
            assert pipe.read_text() == "done", "what was begun is finished"
            if survives:
                sender.send_task("wait", queue="waits", ignore_result=True)
                wait_until(lambda: worker.said.count("has begun") > 1, "the next", PATIENCE)
                assert pipe.read_text() == "done", "and so is what comes later"
            else:
                worker.until_ended()
