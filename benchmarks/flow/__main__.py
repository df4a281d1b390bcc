"""``python -m benchmarks.flow``: measures what flow control promises, and writes the page of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from benchmarks.flow import concurrency, fairness, rates, report, requests, throughput
from benchmarks.processes import ROOT
from benchmarks.rounds import FAILURES
from benchmarks.servers import Servers
from benchmarks.terminal import Terminal
from benchmarks.yard import Shop
from ops.errors import CommandError
from ops.plan import sole_use

FOLDER = ROOT / ".bench"

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "rates": rates.measure,
    "concurrency": concurrency.measure,
    "fairness": fairness.measure,
    "order": fairness.measure_order,
    "shares": fairness.measure_shares,
    "throughput": throughput.measure,
    "others": requests.measure,
}


def main(
    *,
    only: Annotated[list[str] | None, typer.Option(help="A part; may be repeated.")] = None,
    quick: Annotated[
        bool, typer.Option(help="Less of each, in two minutes; such figures are not kept.")
    ] = False,
) -> None:
    """Measure limits, fairness, priorities and what they cost, on three workers and two relays."""
    parts = only or [*PARTS]
    if unknown := set(parts) - PARTS.keys():
        raise typer.BadParameter(f"There are the parts {', '.join(PARTS)}; not {unknown}.")
    file = report.QUICK if quick else report.KEPT
    failed = False
    with Terminal() as tell, sole_use(FOLDER), Servers(FOLDER / "servers") as servers:
        tell.expect(len(parts))
        shop = Shop.open(servers)
        for part in parts:
            failed |= not _measure(part, partial(PARTS[part], shop, quick=quick), tell, quick=quick)
        tell.say(report.table(report.load(file)))
    if not quick:
        report.write()
    sys.exit(1 if failed else 0)


def _measure(
    part: str, measure: Callable[[], dict[str, Any]], tell: Terminal, *, quick: bool
) -> bool:
    """Measure a part, keep it at once and tell whether that worked."""
    tell.begin(part)
    try:
        result = measure()
    except FAILURES as error:
        tell.say(f"{part} failed: {error}")
        return False
    finally:
        tell.end()
    report.keep(part, result, report.QUICK if quick else report.KEPT)
    for what, figure, law in report.rows(part, result):
        tell.say(f"{part}: {what}: {figure} ({law})")
    return True


if __name__ == "__main__":
    try:
        typer.run(main)
    except CommandError as error:
        sys.exit(f"benchmarks.flow: {error}")
