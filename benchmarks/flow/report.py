"""What the figures of flow control say: a table for the terminal, the same and plots for the page.

``python -m benchmarks.flow.report`` writes the page anew from what is kept, without measuring.
``flow.json`` is ``{PART: {"made": {...}, "result": {...}}}``: a part says when and on what it was
measured, at which commit.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from rich.table import Table

from benchmarks.figures import readable
from benchmarks.flow import plots
from benchmarks.flow.requests import BULK, middle
from benchmarks.processes import ROOT
from benchmarks.report import machine

Result: TypeAlias = dict[str, Any]  # JSON
Row: TypeAlias = tuple[str, str, str]
"""What was measured, the figure, and what was promised."""

_RESULTS = ROOT / "benchmarks" / "results"
KEPT, QUICK = _RESULTS / "flow.json", _RESULTS / "flow-quick.json"

PAGE = ROOT / "docs" / "flow-control.md"
BEGIN, END = "<!-- figures: written by make bench-flow -->", "<!-- end of figures -->"

COMMAND = "make bench-flow"


def load(file: Path) -> dict[str, Result]:
    """Return all that is kept in ``file``; nothing, if that isn't there."""
    if not file.exists():
        return {}
    kept: dict[str, Result] = orjson.loads(file.read_bytes())
    return kept


def keep(part: str, result: Result, file: Path) -> None:
    """Put a part's figures in the place of its old ones, whole or not at all."""
    made = {"at": f"{datetime.now(UTC):%Y-%m-%d}", "commit": _commit(), "on": machine()}
    kept = load(file) | {part: {"made": made, "result": result}}
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    unfinished.replace(file)


def table(kept: dict[str, Result]) -> Table:
    """Return all figures with what was promised."""
    shown = Table("part", "measured", "figure", "promised", title="Flow control")
    for part, of_part in kept.items():
        for row in rows(part, of_part["result"]):
            shown.add_row(part, *row)
        shown.add_section()
    return shown


def write(page: Path = PAGE) -> None:
    """Put what is kept into the page, between its marks, with the plots.

    Raises:
        ValueError: the page lacks the marks. Nothing was changed.
    """
    kept = load(KEPT)
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} must have the lines {BEGIN!r} and {END!r}")
    drawn = plots.draw({part: of["result"] for part, of in kept.items()}, page.with_suffix(""))
    written = "\n".join(_document(kept, drawn, page))
    page.write_text(f"{before}{BEGIN}\n{written}\n{END}{after}")


def rows(part: str, result: Result) -> Iterator[Row]:
    """Give a part's figures in words."""
    match part:
        case "rates":
            for name, kind in result["kinds"].items():
                yield from _of_a_rate(name, kind)
        case "concurrency":
            yield "most calls at once", str(result["most"]), f"≤ {result['limit']}"
            yield "most calls at once for one key", str(result["most_by_key"]), "≤ 1"
            yield (
                f"a killed worker's {result['repeated']} calls were made again after",
                f"{result['free_again']:.1f} s",
                "",
            )
        case "fairness":
            yield from _of_waits(f"{result['backlog']:,} jobs waiting", result["waits"])
            long_backlog = f"{result['long_backlog']:,} jobs of 10 ms waiting"
            yield from _of_waits(long_backlog, result["long_waits"])
        case "order":
            medians = [places[1] for places in result["places"].values()]
            in_order = "in order" if medians == sorted(medians) else "not in order"
            yield "priorities 0 to 9, by the median of their places", in_order, "in order"
        case "shares":
            heavy, light = result["weights"]
            ratio = f"{result['ratio']:.2f} : 1"
            yield f"jobs of tenants weighing {heavy:g} and {light:g}", ratio, "3 : 1"
        case "throughput":
            for free, limited in result["pairs"]:
                yield "jobs/s without and with limits", f"{free:,.0f}, {limited:,.0f}", ""
            yield "ratio, median of the pairs", f"{result['ratio']:.2f}", "≥ 0.80"
        case "others":
            yield from _of_the_others(result)


def _of_a_rate(name: str, kind: Result) -> Iterator[Row]:
    limit = f"{kind['rate']}, burst {kind['burst']:g}, {name}"
    room = -kind["excess"]
    yield (
        f"{limit}: room left under the law in the worst window, starts",
        f"{room:.1f}",
        "≥ 0",
    )
    yield f"{limit}: part of the rate reached", f"{kind['reached']:.1%}", "≥ 95 %"


def _of_the_others(result: Result) -> Iterator[Row]:
    took = statistics.median(result["bulk"])
    yield f"{BULK:,} jobs in one request", f"{took:.2f} s, {BULK / took:,.0f}/s", ""
    equal = f"{result['equal']:,} equal requests at once, in {result['equal_seconds']:.1f} s: runs"
    yield equal, str(result["runs"]), "1"
    plain, steps = (middle(result["workflow"], which) for which in (0, 1))
    jobs = result["width"] + 2
    yield f"{jobs:,} plain jobs, from their commit to the last effect", f"{plain:.2f} s", ""
    fan = f"a workflow of as many steps, 1 to {result['width']:,} to 1"
    yield fan, f"{steps:.2f} s, {steps / plain:.2f} times", ""
    delays = result["ticks"]
    late = f"{statistics.median(delays):.2f}, {delays[-1]:.2f} s"
    yield "a tick each second, carried out after: median, longest", late, "≤ 1 s and a look"
    yield "a word of progress costs its job", f"{result['word'] * 1e6:.2f} µs", "no commit"


def _of_waits(beside: str, waits: dict[str, Result]) -> Iterator[Row]:
    for name, wait in waits.items():
        law = "p99 ≤ 200 ms" if name.startswith("urgent") else "p99 ≤ 1,000 ms"
        figure = f"{readable(wait['p50'] * 1e3)}, {readable(wait['p99'] * 1e3)} ms"
        yield (
            f"{beside if name != 'alone' else 'nothing waiting'}; a job {name}: p50, p99",
            figure,
            "" if name in {"alone", "behind its own backlog"} else law,
        )


def _document(kept: dict[str, Result], drawn: dict[str, Path], page: Path) -> Iterator[str]:
    yield f"All of it by `{COMMAND}`; a part alone by `{COMMAND} ARGS='--only PART'`.\n"
    for part, of_part in kept.items():
        made = of_part["made"]
        yield f"### `{part}`\n"
        yield f"Measured {made['at']} at commit `{made['commit']}` on {made['on']}.\n"
        if part in drawn:
            yield f"![{part}]({drawn[part].relative_to(page.parent)})\n"
        yield "| measured | figure | promised |\n|---|--:|--:|"
        for what, figure, law in rows(part, of_part["result"]):
            yield f"| {what} | {figure} | {law} |"
        yield ""


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - the one on the path
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


if __name__ == "__main__":
    write()
