"""A connection to Postgres may end, fall silent or not be had: no pool wedges, no lock outlives it.

A commit that was sent and not answered may have happened: the rows say, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from random import Random
from uuid import UUID

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from tests.faults.conftest import System
from tests.harness.clients import caller, order_of
from tests.harness.invariants import assert_invariants
from tests.harness.programs import Running
from tests.harness.proxy import COMMIT, COMMITTED, Proxy
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

LOCKS_FREED_SECONDS = 10.0
"""The longest a transaction may stay open whose client is gone or silent."""

GOODSYARDS = "application_name LIKE 'goodsyard%%'"
"""Sessions of Goodsyard's own processes."""


class Idlers:
    """Clients that connect and do nothing; their connections end with a stack."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        """Connect to ``url``."""
        self._conninfo = (
            make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        )
        self._stack = stack

    def take(self, most: int) -> None:
        """Take so many connections, or all that are to be had."""
        try:
            for _ in range(most):
                self._stack.enter_context(psycopg.connect(self._conninfo, autocommit=True))
        except psycopg.OperationalError as error:
            if "too many clients" not in str(error):
                raise

    def have_all(self, shop: Shop) -> bool:
        """Take the place of every session that Goodsyard has; tell whether none is left."""
        before = self._end_goodsyards(shop)
        self.take(1_000)
        # What was ended just before may have given its place back only after all were taken.
        return not before and not self._end_goodsyards(shop)

    def _end_goodsyards(self, shop: Shop) -> int:
        ended = shop.rows(  # a session that only starts hasn't said yet whose it is
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608 - ours
            f" WHERE {GOODSYARDS} OR state = 'starting'"
        )
        return len(ended)


@contextmanager
def faraway(system: System, line: Proxy) -> Iterator[Running]:
    """Have another worker node in the place of the system's, reaching Postgres through ``line``."""
    settings = {"GOODSYARD_DATABASE_URL": line.url(system.postgres.url)}
    with system.cluster.worker(settings=settings) as node:
        system.worker.terminate()
        node.until_ready()
        assert system.worker.until_ended() == 0
        yield node
        line.heal()  # so that it can say good-bye


@contextmanager
def faraway_api(system: System, line: Proxy, shop: Shop) -> Iterator[httpx.Client]:
    """Have a caller of an API that reaches Postgres through ``line``."""
    settings = {"GOODSYARD_DATABASE_URL": line.url(system.postgres.url)}
    with system.cluster.api(settings) as api, caller(shop, api.url) as http:
        api.until_ready()
        yield http


@pytest.fixture
def line(system: System) -> Iterator[Proxy]:
    """A line to Postgres of one process's own."""
    with Proxy(system.postgres.port) as line:
        yield line


def submit(http: httpx.Client, shop: Shop, key: str) -> httpx.Response:
    """Hand one order in."""
    return http.post("/v1/orders", json=order_of(shop), headers={"Idempotency-Key": key})


@pytest.mark.row(number=18)
def test_sessions_ended_five_times_a_second_wedge_no_pool(system: System, shop: Shop) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    chance = Random(seed)  # noqa: S311 - a schedule of faults, no secret
    processes = system.worker.offspring
    due, ended = time.monotonic(), 0

    def storm() -> bool:
        nonlocal due, ended
        if time.monotonic() >= due:
            due += 0.2
            ended += _end_one(shop, chance)
        if shop.is_settled():
            shop.order(100)
        return ended >= 30

    shop.until(storm, "30 sessions to be ended")
    shop.until_settled()
    assert system.worker.offspring == processes
    assert _attempts(shop) == 0
    assert_invariants(shop)


def _attempts(shop: Shop) -> int:
    """Return how many failures were laid at the door of the shop's jobs."""
    query = "SELECT coalesce(sum(attempts), 0) FROM goodsyard.job_done WHERE tenant = %(tenant)s"
    return int(shop.value(query))


def _end_one(shop: Shop, chance: Random) -> int:
    """End a session of Goodsyard's, whatever it is doing; return how many were."""
    sessions = shop.rows(f"SELECT pid FROM pg_stat_activity WHERE {GOODSYARDS} ORDER BY pid")  # noqa: S608 - ours
    if not sessions:
        return 0
    pid = chance.choice(sessions)["pid"]
    return int(shop.value("SELECT pg_terminate_backend(%(pid)s)", pid=pid))


@pytest.mark.row(number=19)
def test_a_worker_cut_off_at_its_commits_carries_each_job_out_once(
    system: System, shop: Shop, line: Proxy
) -> None:
    cuts = 10

    def cut_off(often: int) -> None:
        def was() -> bool:
            if shop.is_settled():
                shop.order(100)
            return line.cuts >= often

        shop.until(was, f"{often} commits to be cut off")

    with faraway(system, line) as node:
        shop.order(200)
        shop.until_charged(1)  # until it could say that it lives, it begins nothing
        line.cut_before(COMMIT, times=cuts)
        cut_off(cuts)
        line.cut_instead_of(COMMITTED, times=cuts)
        cut_off(2 * cuts)
        shop.until_settled()
        assert "postgres.again" in node.said, "no chunk of its was cut off"
        assert node.status is None
    assert _attempts(shop) == 0
    assert_invariants(shop)


@pytest.mark.row(number=19)
def test_an_order_whose_commit_was_not_answered_is_found_by_its_key(
    system: System, shop: Shop, line: Proxy
) -> None:
    with faraway_api(system, line, shop) as http:
        assert submit(http, shop, "first").status_code == httpx.codes.ACCEPTED

        # The one statement commits itself: its answer, of this column, is the commit's.
        line.cut_instead_of(b"accepted_at")
        assert submit(http, shop, "committed").status_code == httpx.codes.SERVICE_UNAVAILABLE
        line.cut_before(b"INSERT INTO commerce.orders")
        assert submit(http, shop, "not committed").status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert line.cuts == 2

        replayed, fresh = submit(http, shop, "committed"), submit(http, shop, "not committed")
    assert (replayed.status_code, fresh.status_code) == (202, 202)
    assert replayed.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in fresh.headers
    shop.until_settled()
    assert len(shop.statuses()) == 3
    shop.expected |= dict.fromkeys(shop.statuses(), "paid")
    assert_invariants(shop)


@pytest.mark.row(number=20)
@pytest.mark.long
def test_a_worker_that_falls_silent_in_a_transaction_holds_its_locks_for_ten_seconds_at_the_most(
    system: System, shop: Shop, line: Proxy
) -> None:
    with faraway(system, line):
        line.fall_silent_at(b"UPDATE commerce.stock")  # job, order and stock are locked by then
        shop.order(200)
        line.until_silent()
        system.worker.start()
        began, silent_since = time.monotonic(), shop.value("SELECT clock_timestamp()")
        still_open = (
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name = 'goodsyard worker' AND xact_start <= %(since)s"
        )
        assert shop.rows(still_open, since=silent_since)
        shop.until(
            lambda: not shop.rows(still_open, since=silent_since),
            "Postgres to end its transaction",
            LOCKS_FREED_SECONDS,
        )
        print(f"locks freed after {time.monotonic() - began:.1f} s")  # noqa: T201 - see -rP
        shop.until_settled()
        assert_invariants(shop)


@pytest.mark.row(number=22)
@pytest.mark.long
def test_when_no_connection_is_to_be_had_work_waits_and_goes_on_once_there_are_some(
    system: System, shop: Shop
) -> None:
    with system.cluster.api() as api, caller(shop, api.url) as http:
        api.until_ready()
        with ExitStack() as idle:
            clients = Idlers(system.postgres.url, idle)
            clients.take(150)  # some are left for those at work
            shop.order(1_500)
            shop.until_charged(20)
            shop.until(lambda: clients.have_all(shop), "all connections to be taken")
            refused = submit(http, shop, "refused")
            assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert "Retry-After" in refused.headers
            assert not shop.is_settled()
        began = time.monotonic()
        shop.until(
            lambda: submit(http, shop, "refused").status_code == httpx.codes.ACCEPTED,
            "an order to be accepted",
            10,
        )
        print(f"accepts again after {time.monotonic() - began:.1f} s")  # noqa: T201 - see -rP
        order = UUID(submit(http, shop, "refused").json()["order"]["id"])
    shop.expected[order] = "paid"
    shop.until_settled()
    assert_invariants(shop)


@pytest.mark.row(number=23)
def test_work_goes_on_beside_a_reader_that_never_ends_its_transaction(
    system: System, shop: Shop
) -> None:
    url = make_url(system.postgres.url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as reader:
        reader.execute("SELECT count(*) FROM goodsyard.job")
        shop.order(300)
        shop.until_settled()
        status = reader.info.transaction_status
        assert status is psycopg.pq.TransactionStatus.INTRANS
        assert reader.execute("SELECT 1").fetchone() == (1,), "it isn't ours to end"
    assert_invariants(shop)


@pytest.mark.row(number=23)
def test_a_session_of_goodsyards_that_idles_in_a_transaction_is_ended(shop: Shop) -> None:
    async def idle(tx: AsyncSession) -> None:
        pid = await tx.scalar(text("SELECT pg_backend_pid()"))
        session = "SELECT pid FROM pg_stat_activity WHERE pid = %(pid)s"
        ended = partial(shop.rows, session, pid=pid)
        await asyncio.to_thread(
            shop.until, lambda: not ended(), "its session to be ended", LOCKS_FREED_SECONDS
        )

    with pytest.raises(DBAPIError):
        shop.transact(idle)
