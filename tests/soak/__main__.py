"""``make soak MINUTES=30``: orders at a steady pace, a fault every few seconds, and the books.

It ends with a table, and with status 1 if anything was lost, doubled or left over, or if no
duplicate was there to be absorbed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from threading import Event

from rich.console import Console
from rich.table import Table

from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop
from tests.soak import site as sites
from tests.soak.customers import Customers
from tests.soak.faults import FAULTS
from tests.soak.recovery import Recoveries, in_hand, until_moved_on
from tests.soak.site import Site

_CALM_SECONDS = 4.0
"""How long, on average, nothing goes wrong between two faults."""
_BURSTS = (0, 50, 300)
"""Orders that come at once before a fault: a fault that meets nobody at work shows nothing."""
_DRAIN_SECONDS = 300.0

_console = Console(width=110, highlight=False)


def main() -> int:
    """Run a soak and return 0 if every promise held."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0, help="orders a second")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))  # noqa: S311
    options = parser.parse_args()
    chance = random.Random(options.seed)  # noqa: S311 - it draws faults, no secrets
    logs = Path(mkdtemp(prefix="goodsyard-soak-logs-"))
    _console.print(
        f"make soak: {options.minutes:g} minutes, {options.rate:g} orders/s, seed {options.seed}"
    )
    _console.print(f"logs: {logs}")
    recoveries = Recoveries()
    with sites.opened(logs, chance) as site:
        shop = site.shop
        customers = Customers(
            [api.url for api in site.apis],
            shop.api_key(),
            shop.user,
            options.rate,
            logs / "accepted",
            random.Random(options.seed + 1),  # noqa: S311 - as above
        )
        with customers:
            _break_things(site, customers, recoveries, options.minutes * 60)
        drained = _drain(site, customers)
        return _report(site, customers, recoveries, drained)


def _break_things(site: Site, customers: Customers, recoveries: Recoveries, seconds: float) -> None:
    began, calm = time.monotonic(), Event()
    until = began + seconds
    while time.monotonic() < until:
        calm.wait(site.chance.expovariate(1 / _CALM_SECONDS))
        fault = site.chance.choice(FAULTS)
        site.shop.order(site.chance.choice(_BURSTS))
        held = in_hand(site.shop)
        fault(site)
        site.replace_the_ended()
        recovered = until_moved_on(site.shop, held, calm)
        recoveries.add(fault.__name__, recovered)
        at = timedelta(seconds=round(time.monotonic() - began))
        _console.print(
            f"{at} {fault.__name__}: {len(held)} in hand, moved on after {recovered:.1f} s; "
            f"{len(customers.accepted)} submits accepted"
        )


def _drain(site: Site, customers: Customers) -> float:
    """Wait until all is over; return how many seconds that took."""
    site.cluster.sandbox.behave()
    site.replace_the_ended()
    site.shop.expected |= customers.accepted
    began = time.monotonic()
    site.shop.until(site.shop.is_settled, "all orders to come to their end", _DRAIN_SECONDS)
    return time.monotonic() - began


def _report(site: Site, customers: Customers, recoveries: Recoveries, drained: float) -> int:
    shop = site.shop
    wrong: list[str] = [*customers.refused]
    try:
        assert_invariants(shop)
    except AssertionError as error:
        wrong.append(str(error))
    if not customers.accepted:
        wrong.append("no submit was accepted")
    lost = len(shop.expected.keys() - shop.statuses().keys())
    absorbed = site.copies + _redelivered(shop)
    if absorbed == 0:
        wrong.append("no duplicate was there to be absorbed")

    table = Table("fault", "times", "p50 s", "p99 s", title="Until all that was in hand moved on")
    for fault in sorted(recoveries.seconds):
        middle, worst = recoveries.percentiles(fault)
        times = str(len(recoveries.seconds[fault]))
        table.add_row(fault.replace("_", " "), times, f"{middle:.1f}", f"{worst:.1f}")
    middle, worst = recoveries.percentiles()
    table.add_section()
    table.add_row("all", str(recoveries.injected), f"{middle:.1f}", f"{worst:.1f}")
    _console.print(table)

    jobs = shop.value("SELECT count(*) FROM goodsyard.job_done WHERE tenant = %(tenant)s")
    summary = Table("", "", title="Soak", show_header=False)
    for name, value in (
        ("orders", len(shop.expected)),
        ("of which one by one over HTTP, each 202 on disk", len(customers.accepted)),
        ("submits asked again, under their key", customers.asked_again),
        ("jobs", jobs),
        ("faults injected", recoveries.injected),
        ("duplicate deliveries absorbed", absorbed),
        ("lost", lost),
        ("doubled", _doubled(shop)),
        ("mails sent more than once", len(shop.mails()) - len({_id(m) for m in shop.mails()})),
        ("seconds until drained", f"{drained:.1f}"),
        ("findings", len(wrong)),
    ):
        summary.add_row(name, str(value))
    _console.print(summary)
    for finding in wrong[:20]:
        _console.print(finding, markup=False)
    return 1 if wrong else 0


def _redelivered(shop: Shop) -> int:
    """Return how often a job was sent again though nothing had failed: its delivery was lost."""
    return int(
        shop.value("""
            SELECT coalesce(sum(greatest(fence - 1 - attempts, 0)), 0)
              FROM goodsyard.job_done WHERE tenant = %(tenant)s""")
    )


def _doubled(shop: Shop) -> int:
    """Return how many captures the gateway saw beyond one a payment."""
    captured = [c["idempotency_key"] for c in shop.charges() if c["status"] == "succeeded"]
    return len(captured) - len(set(captured))


def _id(mail: dict[str, object]) -> object:
    return mail["message_id"]


if __name__ == "__main__":
    sys.exit(main())
