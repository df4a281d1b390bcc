"""One demo from start to stop; its exit status is 0 only if every promise was kept."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ops.demo.checks import Check, check_all, extra_copies, succeeded
from ops.demo.evidence import Evidence, Witness
from ops.demo.evidence import Progress as HowFar
from ops.demo.expectation import Expectation, expectation_of
from ops.demo.system import Addresses, running
from ops.errors import CommandError
from ops.importer import Options, import_orders

ORDERS = Path(__file__).parents[2] / "demo" / "orders.csv"
FOLDER = Path(".demo")
ON_HAND = 1_000_000  # of each SKU: enough for every order of the file
SECONDS_WITHOUT_NEWS = 60.0  # then it is stuck, and the checks say with what
LOOK_AGAIN = 0.25  # seconds
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demo came to."""

    expected: Expectation
    evidence: Evidence
    seconds: float
    """From the first order request until the last receipt was in."""
    checks: list[Check]

    @property
    def is_good(self) -> bool:
        """Tell whether every promise was kept."""
        return all(check.held for check in self.checks)

    def as_json(self) -> dict[str, object]:
        """Return ``summary.json``."""
        evidence = self.evidence
        charges = succeeded(evidence)
        paid = evidence.outcomes.get("paid", 0)
        return {
            "orders": sum(evidence.outcomes.values()),
            "paid": paid,
            "charges": len(charges),
            "receipts": len(evidence.mails) - extra_copies(evidence),
            "ledger_total": sum(evidence.captures.values()),
            "seconds": round(self.seconds, 3),
            "orders_per_second": round(paid / self.seconds, 1),
            "jobs_per_second": round(evidence.jobs_done / self.seconds, 1),
            "latency_seconds": evidence.latency,
            "checks": {check.promise: check.held for check in self.checks},
        }


def main() -> int:
    """Run the demo and return its exit status."""
    console = Console(highlight=False)
    try:
        outcome = asyncio.run(_until_interrupted(console))
    except CommandError as error:
        console.print(f"The demo can't go on: {error}", style="red")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; everything is stopped.")
        return INTERRUPTED
    (FOLDER / "summary.json").write_bytes(
        orjson.dumps(outcome.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )
    _show(outcome, console)
    return 0 if outcome.is_good else 1


async def _until_interrupted(console: Console) -> Outcome:
    demo = asyncio.create_task(_run(console))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, demo.cancel)
    return await demo


async def _run(console: Console) -> Outcome:
    expected = expectation_of(ORDERS)
    with console.status(
        "Starting Postgres, Valkey, sandbox, workers, relay, API, Flower …"
    ) as status:
        async with running(FOLDER) as addresses:
            status.stop()
            console.print("Postgres, Valkey, sandbox, workers, relay, API and Flower are up.")
            async with Witness(addresses.database_url, addresses.gateway) as witness:
                if await witness.orders():
                    raise CommandError(
                        "GOODSYARD_DATABASE_URL names a database with orders in it, and the demo "
                        "counts what it finds. Give it an empty one, or none."
                    )
                began = time.time()
                await _import(addresses, console)
                await _wait(witness, expected, console)
                evidence = await witness.evidence()
            status.update("Stopping: work in hand is finished first …")
            status.start()
    ended = evidence.last_mail_at if evidence.mails else datetime.now(UTC)
    checks = check_all(expected, evidence, ON_HAND)
    return Outcome(expected, evidence, ended.timestamp() - began, checks)


async def _import(addresses: Addresses, console: Console) -> None:
    options = Options(
        file=ORDERS,
        api=addresses.api,
        api_key=addresses.api_key,
        ensure_stock=ON_HAND,
        refused=FOLDER / "refused.ndjson",
    )
    counts = await import_orders(options, console, asyncio.Event())
    if counts.refused:
        console.print(f"{counts.refused} orders were refused: {options.refused_file}", style="red")


async def _wait(witness: Witness, expected: Expectation, console: Console) -> None:
    """Return once everything is done, or nothing has moved for a while."""
    with _bars(expected, console) as show:
        last = None
        news_at = time.monotonic()
        while time.monotonic() - news_at < SECONDS_WITHOUT_NEWS:
            now = await witness.progress()
            show(now)
            if _is_done(now):
                return
            if now != last:
                last, news_at = now, time.monotonic()
            await asyncio.sleep(LOOK_AGAIN)
    console.print(f"Nothing has moved for {SECONDS_WITHOUT_NEWS:.0f} s.", style="red")


def _is_done(now: HowFar) -> bool:
    return now.orders_open == 0 and now.jobs_due == 0 and now.mails >= now.orders_paid


@contextmanager
def _bars(expected: Expectation, console: Console) -> Iterator[Callable[[HowFar], None]]:
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        paid = progress.add_task("Paid", total=expected.orders)
        receipts = progress.add_task("Receipts", total=expected.orders)

        def show(now: HowFar) -> None:
            progress.update(paid, completed=now.orders_paid)
            progress.update(receipts, completed=now.mails)

        yield show


def _show(outcome: Outcome, console: Console) -> None:
    console.print(_figures(outcome), _promises(outcome.checks))
    console.print(
        f"Left in {FOLDER}: summary.json, logs, sandbox/charges.jsonl, sandbox/mails.jsonl.\n"
        "Everything has stopped. `make up` starts it to stay and says where the API's docs, Flower "
        "and the mails are.",
        soft_wrap=True,
    )


def _figures(outcome: Outcome) -> Table:
    evidence, summary = outcome.evidence, outcome.as_json()
    table = Table(title="What happened", show_header=False)
    for status, count in sorted(evidence.outcomes.items()):
        table.add_row(f"Orders {status}", f"{count:,}")
    table.add_row("Money captured", f"{sum(succeeded(evidence).values()):,} cents")
    table.add_row("Money in the ledger", f"{sum(evidence.captures.values()):,} cents")
    extra = extra_copies(evidence)
    table.add_row("Receipts", f"{summary['receipts']:,}, and {extra:,} extra copies")
    table.add_row("Time, first request to last receipt", f"{outcome.seconds:.1f} s")
    table.add_row("Orders a second", f"{summary['orders_per_second']:,}")
    table.add_row("Jobs a second", f"{summary['jobs_per_second']:,}")
    if evidence.latency is not None:
        figures = ", ".join(f"{seconds:.2f}" for seconds in evidence.latency)
        table.add_row("Accepted to paid: p50, p95, p99", f"{figures} s")
    return table


def _promises(checks: list[Check]) -> Table:
    table = Table("Promise", "Kept", "Found", title="Checked from outside")
    for check in checks:
        verdict = "[green]yes" if check.held else "[bold red]NO"
        table.add_row(check.promise, verdict, check.found)
    return table
