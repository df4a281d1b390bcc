"""A worker starts only if it can do its work, and ends with its work done or handed back."""

from __future__ import annotations

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
    leaving = system.cluster.worker(processes=2)
    leaving.until_ready()
    shop.order(300)
    shop.until_charged(50)
    leaving.terminate()
    assert leaving.until_ended() == 0
    assert not shop.rows(
        "SELECT pid FROM goodsyard.worker WHERE node = %(node)s", node=f"{leaving.name}@test"
    ), "it said good-bye"

    shop.until_settled()
    assert shop.most_lost() == 0, "nothing had to wait for a deadline"
    assert_invariants(shop)


def test_a_worker_without_a_setting_ends_at_once_and_names_it(system: System) -> None:
    names = [
        f"GOODSYARD_{name}"
        for name in ("DATABASE_URL", "REDIS_URL", "GATEWAY_URL", "GATEWAY_KEY", "SMTP_URL")
    ]
    workers = {name: system.cluster.worker(settings={name: ""}) for name in names}
    for name, worker in workers.items():
        assert worker.until_ended() != 0
        assert f"{name} is missing. A good value: " in worker.said
        assert "Traceback" not in worker.said


def test_a_worker_that_lacks_a_handler_ends_at_once_and_names_the_kind(system: System) -> None:
    worker = system.cluster.start(system.cluster.program("forgetful", "-c", FORGETFUL))
    assert worker.until_ended() != 0
    assert "no handler for orders.forgotten" in worker.said
