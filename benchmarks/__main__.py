"""``python -m benchmarks``: measures what it is asked to, and keeps what it finds at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import figures, others, report
from benchmarks.arms import Arm
from benchmarks.processes import ROOT
from benchmarks.rounds import carry_out
from benchmarks.sections import api, chain, depth, latency, memory, queue
from benchmarks.servers import Servers
from benchmarks.yard import Shop
from ops.plan import sole_use

FOLDER = ROOT / ".bench"
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
QUICK = LATEST.with_name("quick.json")

_OURS = (queue, latency, chain, api, memory)
_console = Console(highlight=False)


def main(
    *,
    only: Annotated[list[str] | None, typer.Option(help="A section; may be repeated.")] = None,
    systems: Annotated[str | None, typer.Option(help="By commas; all, if not given.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each.")] = 3,
    scale: Annotated[float, typer.Option(help="This part of the usual number of jobs.")] = 1.0,
    quick: Annotated[bool, typer.Option(help="No peers, one small run: three minutes.")] = False,
) -> None:
    """Measure Goodsyard, its peers and the limits of this machine, in turn."""
    results_file = QUICK if quick else LATEST
    failures: dict[str, dict[str, str]] = {}
    with sole_use(FOLDER), Servers(FOLDER / "servers") as servers:
        shop = Shop.open(servers)
        arms = [arm for section in _OURS for arm in section.arms(shop)]
        arms += others.limits(servers)
        arms += depth.arms(shop, _console.print, scale)
        if not quick:
            arms += others.Peers(servers, FOLDER / "venvs", _console.print).arms()
        chosen = _chosen(arms, only, systems)
        results = figures.load(results_file)
        for section in dict.fromkeys(arm.section for arm in chosen):
            these = [arm.scaled(scale) for arm in chosen if arm.section == section]
            outcome = carry_out(these, runs, _console.print)
            results = figures.merged(results, figures.summed_up(outcome.runs))
            figures.save(results, results_file)
            failures |= {section: outcome.failures} if outcome.failures else {}
    _console.print(report.table(results, failures))
    sys.exit(1 if failures else 0)


def _chosen(arms: list[Arm], only: list[str] | None, systems: str | None) -> list[Arm]:
    wanted = set(systems.split(",")) if systems else None
    return [
        arm
        for arm in arms
        if (not only or arm.section in only) and (wanted is None or arm.system in wanted)
    ]


if __name__ == "__main__":
    typer.run(main)
