"""A plot a section: a bar a system, from its least run to its most, the best on top."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.figures import LESS_IS_BETTER, Results, Spread, best_first, readable

_OURS, _THEIRS, _LIMIT = "#1f6f4a", "#b8b8b0", "#6a7fa8"
_WIDTH, _HEIGHT_OF_A_BAR, _HEIGHT_OF_THE_REST = 7.2, 0.34, 0.9  # inches
_ROOM_FOR_NUMBERS = 1.18


def draw(results: Results, folder: Path) -> dict[str, Path]:
    """Draw the sections in which there is something to compare; returns each one's file."""
    folder.mkdir(exist_ok=True)
    # The same figures make the same file, letter by letter.
    mpl.rcParams |= {"svg.hashsalt": "goodsyard", "font.size": 9, "svg.fonttype": "none"}
    drawn = {}
    for section, systems in results.items():
        if len(systems) > 1:
            drawn[section] = folder / f"{section}.svg"
            _draw(section, systems).savefig(drawn[section], metadata={"Date": None})
    return drawn


def _draw(section: str, systems: Mapping[str, Spread]) -> Figure:
    best_last = best_first(systems)[::-1]
    unit = best_last[0][1]["unit"]
    figure = Figure(
        figsize=(_WIDTH, _HEIGHT_OF_THE_REST + _HEIGHT_OF_A_BAR * len(systems)),
        layout="constrained",
    )
    axes = figure.add_subplot()
    axes.barh(
        [system for system, _ in best_last],
        [spread["median"] for _, spread in best_last],
        color=[_color(system) for system, _ in best_last],
        xerr=[
            [spread["median"] - spread["min"] for _, spread in best_last],
            [spread["max"] - spread["median"] for _, spread in best_last],
        ],
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    for place, (_, spread) in enumerate(best_last):
        axes.annotate(
            readable(spread["median"]),
            (spread["max"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_title(f"{section}, {unit}" + (" (less is better)" if unit in LESS_IS_BETTER else ""))
    axes.set_xlim(0, max(spread["max"] for _, spread in best_last) * _ROOM_FOR_NUMBERS)
    axes.xaxis.set_major_formatter("{x:,.5g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _color(system: str) -> str:
    if system.startswith("goodsyard"):
        return _OURS
    return _LIMIT if system.startswith(("limit", "bare")) else _THEIRS
