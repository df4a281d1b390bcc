"""Redis may be restarted empty or cut off at any moment: no worker ends, and nothing is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.programs import PATIENCE, Running
from tests.harness.shop import Shop
from tests.processes import wait_until

pytestmark = pytest.mark.faults


def test_a_broker_killed_under_load_ends_no_worker_and_loses_nothing(
    system: System, shop: Shop
) -> None:
    node, relay = system.worker.pid, system.relay.pid
    shop.order(400)
    for charges in (50, 100, 150, 200, 250):
        shop.until_charged(charges)
        os.kill(system.valkey.pid, signal.SIGKILL)
        system.valkey.stop()
        system.valkey.start()
    shop.until_settled()
    assert (system.worker.pid, system.worker.status) == (node, None)
    assert (system.relay.pid, system.relay.status) == (relay, None)
    assert_invariants(shop)


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
