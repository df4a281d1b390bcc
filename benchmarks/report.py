"""What the figures say: one table of ratios."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from benchmarks.figures import UNITS, Results, Spread, readable

OURS = "goodsyard"

LESS_IS_BETTER = {"ms", "ms of CPU", "%"}


def table(results: Results, failures: Mapping[str, Mapping[str, str]]) -> Table:
    """Return all figures, with how many times better Goodsyard's median is."""
    shown = Table("section", "system", title="Goodsyard, its peers and the limits of this machine")
    for column in ("min", "median", "max", "unit", "goodsyard is better by"):
        shown.add_column(column, justify="right")
    for section in UNITS:
        systems = results.get(section, {})
        for system, spread in systems.items():
            values = [readable(spread[name]) for name in ("min", "median", "max")]
            shown.add_row(section, system, *values, spread["unit"], ratio(systems, system))
        shown.add_section()
    for section, failed in failures.items():
        for system, why in failed.items():
            shown.add_row(section, system, "", "failed", "", "", why, style="red")
    return shown


def ratio(systems: Mapping[str, Spread], system: str) -> str:
    """Return how many times better Goodsyard's median is than the system's; nothing, if unknown."""
    if OURS not in systems or system == OURS:
        return ""
    ours, theirs = systems[OURS], systems[system]
    better, worse = ours["median"], theirs["median"]
    if ours["unit"] in LESS_IS_BETTER:
        better, worse = worse, better
    return f"{better / worse:,.2f}x" if worse else ""
