"""Postgres may die or have no room left at any moment: what it promised is kept, and work goes on.

What came to a commit when it died may have been committed or not: the rows say, nothing else.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import httpx
import pytest

from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line
from goodsyard.interventions import Actor, pause_queue
from ops.embedded import PostgresServer
from ops.migrate import migrate
from tests.faults.conftest import System
from tests.harness.clients import caller, order_of
from tests.harness.invariants import assert_invariants
from tests.harness.programs import PATIENCE
from tests.harness.shop import Shop
from tests.processes import wait_until

pytestmark = pytest.mark.faults

RECOVERY_SECONDS = 10.0
"""From when Postgres answers again until work goes on as before."""

WINDOW_SECONDS = 3.0
"""Over which a rate is measured: a dozen chunks and more."""

FULL = 0.8
"""Of the rate before. On a machine that others load, rates differ by more with nothing broken: run
it alone before believing it."""

CHARGES = 4_000
"""Enough for several windows, before and after, on a quick machine."""

CD = Line("CD", 1, 1_499)

DISK_MEGABYTES = 128


@contextmanager
def paused(shop: Shop, queue: str) -> Iterator[None]:
    """Hold a queue's jobs back for a while."""
    actor = Actor(shop.tenant, "tests")
    shop.transact(partial(pause_queue, actor=actor, name=queue, paused=True))
    try:
        yield
    finally:
        shop.transact(partial(pause_queue, actor=actor, name=queue, paused=False))


def crash(system: System, number: signal.Signals) -> None:
    """End Postgres by a signal to its postmaster, and start it again."""
    os.kill(system.postgres.pid, number)
    system.postgres.stop()
    system.postgres.start()


@pytest.mark.row(number=16)
@pytest.mark.long
def test_after_an_immediate_stop_of_postgres_the_full_rate_is_back_within_ten_seconds(
    system: System, shop: Shop
) -> None:
    orders = [NewOrder(shop.user, "EUR", [CD], "pm_card_visa", {}) for _ in range(CHARGES)]
    shop.expected |= {order.id: "paid" for order in orders}
    # Nothing but charges, before and after: two rates of unlike work can't be compared.
    with paused(shop, "notifications"):
        with paused(shop, "payments"):
            shop.hand_in(orders)
            shop.until(lambda: shop.outcomes()["reserved"] == CHARGES, "all goods to be set aside")
        shop.until(lambda: len(_ends(shop)) > 0, "the first charges to be done")
        began = time.time()
        shop.until(lambda: len(_ends(shop)) > CHARGES // 3, "a third of all charges to be done")
        down = time.time()
        crash(system, signal.SIGQUIT)
        up = time.time()
        shop.until(lambda: len(_ends(shop)) == CHARGES, "all charges to be done", 2 * PATIENCE)
    shop.until(shop.is_settled, "all orders to come to their end", 2 * PATIENCE)

    ends = _ends(shop)
    before = sum(began < end < down for end in ends) / (down - began)
    windows = _windows([end for end in ends if end > up], up)
    print(f"{before:.0f} charges/s before; {up - down:.1f} s away; then {windows}")  # noqa: T201 - see -rP
    full = [begin for begin, rate in windows if rate >= FULL * before]
    assert full, "the full rate was not back in time"
    print(f"the first window at full rate began {full[0]:.1f} s after")  # noqa: T201 - see -rP
    assert_invariants(shop)


def _ends(shop: Shop) -> Sequence[float]:
    """Return when the shop's charges were done, in seconds since 1970, in order."""
    rows = shop.rows(
        "SELECT extract(epoch FROM finished_at)::float8 AS at FROM goodsyard.job_done"
        " WHERE tenant = %(tenant)s AND kind = 'payments.charge' ORDER BY 1"
    )
    return [row["at"] for row in rows]


def _windows(ends: Sequence[float], up: float) -> Sequence[tuple[float, float]]:
    """Return, half a second apart, when a window began after ``up``, and its charges/s."""
    latest = RECOVERY_SECONDS - WINDOW_SECONDS
    begins = [half / 2 for half in range(int(2 * latest) + 1)]
    return [
        (begin, sum(begin <= end - up < begin + WINDOW_SECONDS for end in ends) // WINDOW_SECONDS)
        for begin in begins
    ]


@pytest.mark.row(number=17)
@pytest.mark.parametrize(
    ("kills", "seconds"),
    [
        pytest.param(3, (0.5, 2.0), id="3 times"),
        pytest.param(10, (5.0, 20.0), id="10 times", marks=pytest.mark.long),
    ],
)
def test_a_postgres_that_is_killed_again_and_again_loses_nothing_and_charges_nobody_twice(
    system: System, shop: Shop, kills: int, seconds: tuple[float, float]
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    chance = Random(seed)  # noqa: S311 - a schedule of faults, no secret
    node, relay = system.worker.pid, system.relay.pid
    for _ in range(kills):
        due = time.monotonic() + chance.uniform(*seconds)

        def in_the_middle(due: float = due) -> bool:
            if shop.is_settled():
                shop.order(100)
            return time.monotonic() > due

        shop.until(in_the_middle, "the next kill")
        crash(system, signal.SIGKILL)
    shop.until_settled()
    assert (system.worker.pid, system.worker.status) == (node, None)
    assert (system.relay.pid, system.relay.status) == (relay, None)
    assert_invariants(shop)


@contextmanager
def small_disk() -> Iterator[Path]:
    """Have a file system of our own that is soon full."""
    with TemporaryDirectory(prefix="goodsyard-tests-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # where we are root, the server is not, and must pass through
        options = f"size={DISK_MEGABYTES}m,mode=0711"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", name],  # noqa: S607 - wherever it is
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip(f"a small disk takes the right to mount one: {mounted.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", name], check=True)  # noqa: S607 - wherever it is


def fill(disk: Path) -> Path:
    """Take all the room that is left, and return the file that has it."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        while True:
            free, taken = os.statvfs(disk), os.fstat(file.fileno()).st_blocks * 512
            try:
                os.posix_fallocate(file.fileno(), taken, free.f_bavail * free.f_frsize)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                continue  # Postgres has taken some of it meanwhile
            break
    return filler


@pytest.mark.row(number=21)
def test_with_a_full_disk_an_order_is_refused_for_now_and_none_is_accepted_in_vain(
    system: System,
) -> None:
    cluster = system.cluster
    with small_disk() as disk, PostgresServer(disk / "postgres") as postgres:
        migrate(postgres.url)
        with (
            cluster.api({"GOODSYARD_DATABASE_URL": postgres.url}) as api,
            Shop(postgres.url, cluster.sandbox, cluster.folder) as shop,
            caller(shop, api.url) as http,
        ):
            api.until_ready()
            answers: dict[str, httpx.Response] = {}

            def submit() -> int:
                key = f"order-{len(answers)}"
                answers[key] = _submit(http, shop, key)
                return answers[key].status_code

            assert submit() == httpx.codes.ACCEPTED
            filler = fill(disk)
            wait_until(lambda: submit() != httpx.codes.ACCEPTED, "the disk to be full", 60)
            for _ in range(20):
                submit()
            refused = {k: a for k, a in answers.items() if a.status_code != httpx.codes.ACCEPTED}
            assert {answer.status_code for answer in refused.values()} == {503}
            assert all("Retry-After" in answer.headers for answer in refused.values())

            filler.unlink()
            began = time.monotonic()
            if not postgres.answers():  # it gives up where it has no room left for its log
                postgres.stop()
                postgres.start()
            wait_until(
                lambda: submit() == httpx.codes.ACCEPTED,
                "an order to be accepted",
                RECOVERY_SECONDS,
            )
            print(f"recovered after {time.monotonic() - began:.1f} s")  # noqa: T201 - see -rP
            again = {key: _submit(http, shop, key) for key in answers}
            assert {answer.status_code for answer in again.values()} == {202}
            orders = {key: answer.json()["order"]["id"] for key, answer in again.items()}
            for key, answer in answers.items():
                if answer.status_code == httpx.codes.ACCEPTED:
                    assert answer.json()["order"]["id"] == orders[key]
            assert {str(order) for order in shop.statuses()} == {*orders.values()}
            jobs = "SELECT count(*) FROM goodsyard.job WHERE tenant = %(tenant)s"
            assert shop.value(jobs) == len(orders)


def _submit(http: httpx.Client, shop: Shop, key: str) -> httpx.Response:
    return http.post("/v1/orders", json=order_of(shop), headers={"Idempotency-Key": key})
