"""The plots of flow control, in the style of the others; what was promised is a line in each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Result: TypeAlias = dict[str, Any]  # JSON

_OURS, _OTHERS, _LAW, _FAULT = "#1f6f4a", "#b8b8b0", "#a03030", "#6a7fa8"
_SHADES = ("#9a9a92", "#1f6f4a", "#c08a1e", "#6a7fa8", "#a03030")
_WIDTH = 7.2  # inches
_STEP = 0.05  # seconds


def draw(results: dict[str, Result], folder: Path) -> dict[str, Path]:
    """Draw the parts that have a plot; returns each one's file."""
    folder.mkdir(exist_ok=True)
    # The same figures make the same file, letter by letter.
    mpl.rcParams |= {"svg.hashsalt": "goodsyard", "font.size": 9, "svg.fonttype": "none"}
    drawn = {}
    for part, plot in _PLOTS.items():
        if part in results:
            drawn[part] = folder / f"{part}.svg"
            plot(results[part]).savefig(drawn[part], metadata={"Date": None})
    return drawn


def _rates(result: Result) -> Figure:
    kind = result["kinds"]["all together"]
    starts, per_second, burst = kind["starts"], kind["per_second"], kind["burst"]
    figure = Figure(figsize=(_WIDTH, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    end = starts[-1]
    upper.plot([0, end], [per_second + burst, per_second * (end + 1) + burst], color=_LAW, lw=1)
    upper.annotate(
        "allowed: rate * (time + 1 s) + burst",
        (end * 0.35, per_second * (end * 0.35 + 1) + burst),
        xytext=(0, 8),
        textcoords="offset points",
        ha="right",
        color=_LAW,
    )
    upper.plot(starts, range(1, len(starts) + 1), color=_OURS, lw=1.4)
    upper.set_title(f"starts at the gateway, limit {kind['rate']}, burst {burst:g}")
    moments = [step * _STEP for step in range(int(end / _STEP))]
    last_second = [bisect_right(starts, at) - bisect_right(starts, at - 1) for at in moments]
    lower.plot(moments, last_second, color=_OURS, lw=1.2)
    lower.axhline(2 * per_second + burst, color=_LAW, lw=1)
    lower.axhline(per_second, color=_OTHERS, lw=1, ls="--")
    lower.set_ylim(0, (2 * per_second + burst) * 1.1)
    lower.set_title("starts in the last second; the most allowed, and the rate (dashed)")
    lower.set_xlabel("seconds")
    for fault in result["faults"]:
        for axes in (upper, lower):
            axes.axvspan(
                fault["from"], max(fault["to"], fault["from"] + 0.1), color=_FAULT, alpha=0.35, lw=0
            )
        upper.annotate(
            fault["what"],
            (fault["from"], 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            color=_FAULT,
        )
    return _plain(figure, upper, lower)


def _fairness(result: Result) -> Figure:
    figure = Figure(figsize=(_WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for color, (name, wait) in zip(_SHADES, result["waits"].items(), strict=False):
        curve = wait["curve"]
        shares = [point * 100 / (len(curve) - 1) for point in range(len(curve))]
        axes.plot([seconds * 1e3 for seconds in curve], shares, color=color, lw=1.4, label=name)
    for law, text in ((1_000, "p99 ≤ 1 s"), (200, "urgent: p99 ≤ 200 ms")):
        axes.axvline(law, color=_LAW, lw=0.8, ls="--")
        axes.annotate(
            text, (law, 4), xytext=(-3, 0), textcoords="offset points", ha="right", color=_LAW
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.5g}")
    axes.set_xlabel("ms from before the submit to the commit of the effect")
    axes.set_ylabel("% of jobs")
    axes.set_title(f"a job's wait, with {result['backlog']:,} jobs of one tenant waiting")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.56, 1.0), fontsize=8)
    return _plain(figure, axes)


def _order(result: Result) -> Figure:
    figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for priority, (early, median, late) in result["places"].items():
        axes.barh(int(priority), (late - early) * 100, left=early * 100, color=_OURS, height=0.6)
        axes.plot([median * 100], [int(priority)], marker="|", color="white", ms=8)
    axes.set_yticks(range(10))
    axes.invert_yaxis()
    axes.set_ylabel("priority")
    axes.set_xlabel("place in the order of effects, % of all jobs: 5th to 95th percentile, median")
    axes.set_title(f"{result['jobs']:,} jobs of one tenant, of mixed priorities")
    return _plain(figure, axes)


def _concurrency(result: Result) -> Figure:
    figure = Figure(figsize=(_WIDTH, 2.7), layout="constrained")
    axes = figure.add_subplot()
    moments, out = zip(*result["steps"], strict=True)
    axes.step(moments, out, where="post", color=_OURS, lw=0.8)
    axes.axhline(result["limit"], color=_LAW, lw=1)
    axes.axvline(result["killed"], color=_FAULT, lw=1)
    axes.annotate(
        "worker killed",
        (result["killed"], 0.2),
        xytext=(3, 0),
        textcoords="offset points",
        color=_FAULT,
    )
    axes.set_ylim(0, result["limit"] + 1)
    axes.set_xlabel("seconds")
    axes.set_title(f"calls out at the gateway, concurrency {result['limit']}")
    return _plain(figure, axes)


def _throughput(result: Result) -> Figure:
    figure = Figure(figsize=(_WIDTH, 2.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (free, limited) in enumerate(result["pairs"]):
        axes.barh(place - 0.2, free, height=0.36, color=_OTHERS, label="no limit anywhere")
        axes.barh(place + 0.2, limited, height=0.36, color=_OURS, label="others limited")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[:2], labels[:2], frameon=False, loc="lower right", fontsize=8)
    axes.set_yticks(
        range(len(result["pairs"])), [f"pair {n + 1}" for n in range(len(result["pairs"]))]
    )
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:,.5g}")
    axes.set_title(f"jobs/s of a kind without a limit; {result['held']:,} jobs held back")
    return _plain(figure, axes)


def _plain(figure: Figure, *each: Axes) -> Figure:
    for axes in each:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


_PLOTS: dict[str, Callable[[Result], Figure]] = {
    "rates": _rates,
    "concurrency": _concurrency,
    "fairness": _fairness,
    "order": _order,
    "throughput": _throughput,
}
