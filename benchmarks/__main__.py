"""``python -m benchmarks``: measures what it is asked to, and keeps what it finds at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from benchmarks import figures, others, report
from benchmarks.arms import Arm
from benchmarks.figures import LATEST, QUICK, Results
from benchmarks.processes import ROOT
from benchmarks.rounds import carry_out, turns
from benchmarks.sections import api, chain, depth, latency, memory, queue
from benchmarks.servers import Servers
from benchmarks.terminal import Terminal
from benchmarks.yard import Shop
from ops.errors import CommandError
from ops.plan import sole_use

FOLDER = ROOT / ".bench"

_QUICK_SCALE = 0.25

Plan: TypeAlias = dict[str, list[tuple[int, Arm]]]
"""The turns of each section."""


def main(
    *,
    only: Annotated[list[str] | None, typer.Option(help="A section; may be repeated.")] = None,
    systems: Annotated[str | None, typer.Option(help="By commas; all, if not given.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each.")] = 3,
    scale: Annotated[
        float,
        typer.Option(
            min=0.001, help="That part of the usual jobs and rows; such figures are not kept."
        ),
    ] = 1.0,
    quick: Annotated[
        bool, typer.Option(help="One small run of Goodsyard and the limits: three minutes.")
    ] = False,
) -> None:
    """Measure Goodsyard, its peers and the limits of this machine, in turn."""
    file = QUICK if quick or scale < 1 else LATEST
    if quick:
        runs, scale = 1, scale * _QUICK_SCALE
    with Terminal() as tell, sole_use(FOLDER), Servers(FOLDER / "servers") as servers:
        arms = _chosen(_arms(servers, tell, scale, quick=quick), only, systems)
        plan = _plan(arms, runs, warm_up=not quick)
        failed = _measure(plan, file, tell)
    if file is LATEST:
        report.write()
    sys.exit(1 if failed else 0)


def _arms(servers: Servers, tell: Terminal, scale: float, *, quick: bool) -> list[Arm]:
    shop = Shop.open(servers)
    arms = [arm for section in (queue, latency, chain, api) for arm in section.arms(shop)]
    arms += others.limits(servers)
    if not quick:
        arms += others.Peers(servers, FOLDER / "venvs", tell.say).arms()
        arms += [*memory.arms(shop), *depth.arms(shop, tell.say, scale)]
    return [arm.scaled(scale) for arm in arms]


def _chosen(arms: Sequence[Arm], only: Sequence[str] | None, systems: str | None) -> list[Arm]:
    wanted = set(systems.split(",")) if systems else {arm.system for arm in arms}
    # A section of percentiles is its measuring's.
    sections = only or [arm.section for arm in arms]
    chosen = [
        arm
        for arm in arms
        if arm.system in wanted and any(name.startswith(arm.section) for name in sections)
    ]
    if not chosen:
        raise typer.BadParameter(
            "Nothing is left to measure. There are the sections "
            + ", ".join(dict.fromkeys(arm.section for arm in arms))
            + " and the systems "
            + ", ".join(dict.fromkeys(arm.system for arm in arms))
        )
    return chosen


def _plan(arms: Sequence[Arm], runs: int, *, warm_up: bool) -> Plan:
    return {
        section: list(turns([a for a in arms if a.section == section], runs, warm_up=warm_up))
        for section in dict.fromkeys(arm.section for arm in arms)
    }


def _measure(plan: Plan, file: Path, tell: Terminal) -> bool:
    """Measure section by section, keep each when it is through, and tell whether any failed."""
    tell.expect(sum(map(len, plan.values())))
    measured: Results = {}
    failures: dict[str, dict[str, str]] = {}
    for section, of_section in plan.items():
        outcome = carry_out(of_section, tell)
        found = figures.summed_up(outcome.runs)
        measured = figures.merged(measured, found)
        kept = figures.without(figures.load(file), section, outcome.failures)
        figures.save(figures.merged(kept, found), file)
        if outcome.failures:
            failures[section] = outcome.failures
    tell.say(report.table(measured, failures))
    return bool(failures)


if __name__ == "__main__":
    try:
        typer.run(main)
    except CommandError as error:
        sys.exit(f"benchmarks: {error}")
