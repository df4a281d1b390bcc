"""What the figures say: a table of ratios for the terminal, the same and plots for the documents.

``python -m benchmarks.report`` writes the documents anew from what is kept, without measuring.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.table import Table

from benchmarks import figures, plots
from benchmarks.figures import LATEST, LESS_IS_BETTER, UNITS, Results, Spread, best_first, readable
from benchmarks.processes import ROOT

OURS = "goodsyard"

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"

_COLUMNS = ("min", "median", "max")
_BETTER = "goodsyard is better by"


def table(results: Results, failures: Mapping[str, Mapping[str, str]]) -> Table:
    """Return figures, with how many times better Goodsyard's median is, and what failed."""
    shown = Table("section", "system", title="Goodsyard, its peers and the limits of this machine")
    for column in (*_COLUMNS, "unit", _BETTER):
        shown.add_column(column, justify="right")
    for systems in _rows(results):
        for row in systems:
            shown.add_row(*row)
        shown.add_section()
    for section, failed in failures.items():
        for system, why in failed.items():
            shown.add_row(section, system, "", "failed", "", "", why, style="red")
    return shown


def write(page: Path = PAGE) -> None:
    """Put what is kept into the page of figures, between its marks, with a plot a section.

    Raises:
        ValueError: the page lacks the marks. Nothing was changed.
    """
    results = figures.load(LATEST)
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} must have the lines {BEGIN!r} and {END!r}")
    drawn = plots.draw(results, page.with_suffix(""))
    written = "\n".join(_document(results, drawn, page))
    page.write_text(f"{before}{BEGIN}\n{written}\n{END}{after}")


def ratio(systems: Mapping[str, Spread], system: str) -> str:
    """Return how many times better Goodsyard's median is than the system's; nothing, if unknown."""
    if OURS not in systems or system == OURS:
        return ""
    ours, theirs = systems[OURS], systems[system]
    better, worse = ours["median"], theirs["median"]
    if ours["unit"] in LESS_IS_BETTER:
        better, worse = worse, better
    return f"{better / worse:,.2f}x" if worse else ""


def _rows(results: Results) -> Iterator[list[list[str]]]:
    """Give each section's rows of the table, best system first."""
    for section in UNITS:
        systems = results.get(section, {})
        if systems:
            yield [
                [
                    section,
                    system,
                    *(readable(spread[column]) for column in _COLUMNS),  # type: ignore[literal-required]  # its keys
                    spread["unit"],
                    ratio(systems, system),
                ]
                for system, spread in best_first(systems)
            ]


def _document(results: Results, drawn: Mapping[str, Path], page: Path) -> Iterator[str]:
    yield f"Measured on {machine()}; all of it by `make bench`.\n"
    for rows in _rows(results):
        section = rows[0][0]
        yield f"### `{section}`\n"
        yield f"`make bench ARGS='--only {section}'`\n"
        if section in drawn:
            yield f"![{section}]({drawn[section].relative_to(page.parent)})\n"
        yield f"| system | {' | '.join(_COLUMNS)} | unit | {_BETTER} |"
        yield "|---|--:|--:|--:|---|--:|"
        for _, *columns in rows:
            yield f"| {' | '.join(columns)} |"
        yield ""


def machine() -> str:
    """Return the machine that this is, in a few words."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    processor = models[0] if models else platform.machine()
    release = platform.release().partition("-")[0]
    return (
        f"{os.cpu_count()} cores ({processor}), Linux {release}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    write()
