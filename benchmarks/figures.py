"""Figures as they are kept: the least, the median and the most of a system's counted runs.

``latest.json`` is ``{SECTION: {SYSTEM: {"min", "median", "max", "unit"}}}``. What a run measures
takes the place of what was there; the rest stays.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import orjson

from benchmarks.arms import Figures

_KEPT = Path(__file__).with_name("results")
LATEST = _KEPT / "latest.json"
QUICK = _KEPT / "quick.json"

UNITS = {
    "noop": "jobs/s",
    "enqueue": "jobs/s",
    "io50": "jobs/s",
    "latency_p50": "ms",
    "latency_p99": "ms",
    "chain": "orders/s",
    "api_single": "requests/s",
    "api_single_p50": "ms",
    "api_single_p99": "ms",
    "api_single_client": "ms of CPU",
    "api_bulk": "orders/s",
    "api_bulk_p50": "ms",
    "api_bulk_p99": "ms",
    "depth": "ratio",
    "memory": "%",
}
"""Every section, in the order in which they are shown."""


LESS_IS_BETTER = {"ms", "ms of CPU", "%"}


class Spread(TypedDict):
    """What a system's counted runs came to."""

    min: float
    median: float
    max: float
    unit: str


Results = dict[str, dict[str, Spread]]


def spread(values: Sequence[float], unit: str) -> Spread:
    """Sum runs up, to five figures: more of them mean nothing."""
    least, median, most = (
        float(f"{value:.5g}") for value in (min(values), statistics.median(values), max(values))
    )
    return {"min": least, "median": median, "max": most, "unit": unit}


def summed_up(runs: Iterable[Figures]) -> Results:
    """Sum up all that the runs of a section came to."""
    values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for figures in runs:
        for section, systems in figures.items():
            for system, value in systems.items():
                values[section, system].append(value)
    results: Results = {}
    for (section, system), measured in values.items():
        results.setdefault(section, {})[system] = spread(measured, UNITS[section])
    return results


def merged(old: Results, new: Results) -> Results:
    """Put new figures in the place of old ones, sections in their order."""
    return {
        section: {**old.get(section, {}), **new.get(section, {})}
        for section in UNITS
        if section in old or section in new
    }


def without(results: Results, group: str, failed: Iterable[str]) -> Results:
    """Take out the figures of systems that failed in a group of sections: they hold no more.

    Args:
        results: all there is.
        group: a section, with those that are named after it.
        failed: the systems.
    """
    gone = set(failed)
    return {
        section: {
            system: spread
            for system, spread in systems.items()
            if _measured_as(system) not in gone or not section.startswith(group)
        }
        for section, systems in results.items()
    }


def best_first(systems: Mapping[str, Spread]) -> list[tuple[str, Spread]]:
    """Return systems by their medians."""
    most_first = not any(spread["unit"] in LESS_IS_BETTER for spread in systems.values())
    return sorted(systems.items(), key=lambda item: item[1]["median"], reverse=most_first)


def _measured_as(system: str) -> str:
    """Return whose runs a figure is from: ``goodsyard (from commit)`` is ``goodsyard``'s."""
    return system.partition(" (")[0]


def load(path: Path) -> Results:
    """Return what is kept at ``path``; nothing, if that isn't there."""
    if not path.exists():
        return {}
    results: Results = orjson.loads(path.read_bytes())
    return results


def save(results: Results, path: Path) -> None:
    """Keep results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
    unfinished.replace(path)


def readable(value: float) -> str:
    """Write a number with four figures, and never as a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004 - four figures
