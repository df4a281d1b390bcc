"""A job that kills or blocks whoever runs it dies of it alone: its neighbours are run, once."""

from __future__ import annotations

from functools import partial
from uuid import UUID

import pytest

from goodsyard.interventions import Actor, retry_jobs
from goodsyard.sweeper import CRASH_BUDGET
from tasks.contracts import ProcessOrder
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.programs import Running
from tests.harness.shop import Shop

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.row(number=32)]

# A worker that can't stand one order. Each way to be poisonous is a function.
_POISONED = """
import ctypes, os, resource, sys
from tasks import orders

def segfault():
    ctypes.string_at(0)

def out_of_memory():
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**26, resource.RLIM_INFINITY))
    hoard = []
    while True:
        hoard.append(bytearray(2**20))

def memory_error():
    raise MemoryError

def loop():
    while True:
        pass

poison, action, *options = sys.argv[1:]
process = orders.process

async def poisoned(jobs, tx):
    if any(str(job.payload.order_id) == poison for job in jobs):
        print("took the poison", flush=True)
        globals()[action]()
    return await process(jobs, tx)

orders.process = poisoned
from celery.__main__ import main
sys.argv = ["celery", "--app", "workers.app", "worker", "--hostname", "poisoned@test", *options]
main()
"""


@pytest.mark.parametrize(
    ("action", "reasons"),
    [
        pytest.param("segfault", {"lost"}, id="a segmentation fault"),
        pytest.param("loop", {"lost"}, id="a loop without end"),
        # What comes of it: an error like any other, or the end of the process.
        pytest.param("out_of_memory", {"attempts", "lost"}, id="no memory left"),
        pytest.param("memory_error", {"attempts"}, id="a MemoryError"),
    ],
)
def test_a_poisonous_job_is_dead_after_its_budget_and_its_neighbours_are_done(
    system: System, shop: Shop, action: str, reasons: set[str]
) -> None:
    system.worker.stop()
    shop.order(40)
    poison = next(order for order, end in shop.expected.items() if end == "paid")
    options = ("--concurrency", "2", "--without-gossip", "--without-mingle", "--time-limit", "6")
    program = system.cluster.program("poisoned", "-c", _POISONED, str(poison), action, *options)
    with Running(program, system.cluster.folder / "poisoned.log", "poisoned@test ready.") as worker:
        worker.start()
        worker.until_ready()
        _until_dead(shop, poison, worker)
        shop.until(
            lambda: [job["state"] for job in shop.jobs()] == ["dead"], "all others to be over"
        )
        assert worker.status is None

    statuses = shop.statuses()
    assert {order for order in statuses if statuses[order] != shop.expected[order]} == {poison}
    [job] = shop.rows("""
        SELECT id, reason, lost, attempts, max_attempts FROM goodsyard.job
         WHERE tenant = %(tenant)s""")
    assert job["reason"] in reasons
    budget = {"lost": CRASH_BUDGET, "attempts": job["max_attempts"]}
    assert job[job["reason"]] == budget[job["reason"]]
    assert (
        shop.value("""
        SELECT max(lost) FROM goodsyard.job_done WHERE tenant = %(tenant)s""")
        <= 1
    ), "a neighbour was lost with it once, and never again"

    # And once its cause is mended, a person sends it on its way.
    actor = Actor(shop.tenant, "tests")
    shop.transact(partial(retry_jobs, actor=actor, ids=[job["id"]]))
    system.worker.start()
    shop.until_settled()
    assert_invariants(shop)


def _until_dead(shop: Shop, poison: UUID, worker: Running) -> None:
    """Wait for the end of the job that processes an order, without its waits between deliveries."""
    took = 0

    def is_dead() -> bool:
        nonlocal took
        [job] = shop.rows(
            "SELECT id, state::text FROM goodsyard.job"
            " WHERE tenant = %(tenant)s AND kind = %(kind)s AND subject = %(poison)s",
            kind=ProcessOrder.kind,
            poison=poison,
        )
        if worker.said.count("took the poison") > took:
            # Whoever took it holds its row as long as it lives; then it is overdue at once.
            took = worker.said.count("took the poison")
            shop.rows(
                "UPDATE goodsyard.job SET deadline = now() WHERE id = %(id)s"
                " AND state = 'dispatched' RETURNING id",
                id=job["id"],
            )
        shop.rows(
            "UPDATE goodsyard.job SET run_at = now() WHERE id = %(id)s"
            " AND state = 'waiting' AND run_at > now() RETURNING id",
            id=job["id"],
        )
        return bool(job["state"] == "dead")

    shop.until(is_dead, "the poison to be dead", 180)
