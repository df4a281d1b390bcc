"""Everything may be restarted under load, one after the other: no order is refused or lost."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from tests.faults.conftest import System
from tests.harness.clients import Clients, Record, order_of
from tests.harness.cluster import Api
from tests.harness.invariants import assert_invariants
from tests.harness.programs import Running
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

EXIT_SECONDS = 35
"""What a supervisor grants after SIGTERM."""


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    kept = Record(tmp_path / "accepted")
    yield kept
    kept.close()


@pytest.fixture
def apis(system: System) -> Iterator[list[Api]]:
    with system.cluster.api() as first, system.cluster.api() as second:
        system.cluster.until_ready()
        yield [first, second]


def restart(shop: Shop, record: Record, running: Running) -> float:
    """End a process as a deployment does, start it again, and return how long its end took."""
    seen = len(record.read())
    shop.until(lambda: len(record.read()) > seen, "load")
    began = time.monotonic()
    running.terminate()
    status = running.until_ended()
    seconds = time.monotonic() - began
    # Uvicorn, once all is closed, ends by the signal it was sent.
    assert status in {0, -signal.SIGTERM}, f"{running.name} ended with {status}"
    assert seconds <= EXIT_SECONDS
    running.start()
    running.until_ready()
    return seconds


@pytest.mark.row(number=5)
@pytest.mark.long
def test_two_apis_restarted_in_turn_fail_no_order(
    shop: Shop, apis: list[Api], record: Record
) -> None:
    with Clients(shop, [api.url for api in apis], record) as clients:
        ends = [restart(shop, record, api) for api in apis]
    print(f"{len(record.read())} orders, exits {ends}, no answer: {clients.unheard}")  # noqa: T201 - see -rP
    assert clients.failed == []
    shop.until_settled()
    assert_invariants(shop)


@pytest.mark.row(number=5)
def test_an_api_that_is_told_to_end_answers_all_that_has_reached_it(
    shop: Shop, apis: list[Api], record: Record
) -> None:
    with Clients(shop, [api.url for api in apis], record, number=6, balanced=False) as clients:
        ends = [restart(shop, record, api) for api in apis]
    print(f"{len(record.read())} orders, exits {ends}, no answer: {clients.unheard}")  # noqa: T201 - see -rP
    assert clients.failed == []
    assert clients.unheard["ConnectError"] > 0, "nobody noticed"
    shop.until_settled()
    assert_invariants(shop)


@pytest.mark.row(number=5)
def test_who_had_connected_when_an_api_was_told_to_end_is_answered(
    shop: Shop, apis: list[Api]
) -> None:
    api, address = apis[0], urlsplit(apis[0].url)
    headers = {"Authorization": f"Bearer {shop.api_key()}", "Content-Type": "application/json"}
    api.freeze()
    with ExitStack() as open_calls:
        calls = []
        for number in range(20):
            call = HTTPConnection(str(address.hostname), address.port, timeout=30)
            calls.append(open_calls.enter_context(closing(call)))
            call.connect()  # the kernel accepts it: the API can't
            key = {"Idempotency-Key": f"at the door {number}"}
            call.request("POST", "/v1/orders", json.dumps(order_of(shop)), headers | key)
        api.terminate()
        api.thaw()
        answers = [call.getresponse() for call in calls]
        assert [answer.status for answer in answers] == [202] * len(calls)
        orders = [UUID(json.loads(answer.read())["order"]["id"]) for answer in answers]
    shop.expected |= dict.fromkeys(orders, "paid")
    api.until_ended()
    shop.until_settled()
    assert_invariants(shop)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.row(number=5)
def test_everything_restarted_in_turn_under_load_fails_no_order_and_loses_none(
    system: System, shop: Shop, apis: list[Api], record: Record
) -> None:
    with system.cluster.relay() as relay, system.cluster.worker(processes=2) as worker:
        worker.until_ready()
        everything = [system.worker, worker, system.relay, relay, *apis]
        with Clients(shop, [api.url for api in apis], record) as clients:
            ends = {one.name: restart(shop, record, one) for one in everything}
            print(f"seconds to the end: {ends}")  # noqa: T201 - see -rP
        print(f"{len(record.read())} orders, no answer: {clients.unheard}")  # noqa: T201 - see -rP
        assert clients.failed == []
        shop.until_settled()
    assert_invariants(shop)
