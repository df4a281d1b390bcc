"""What is read off starts: how far they ran ahead of a rate, and how many were out at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from goodsyard.contracts import Rate


def ahead(starts: Sequence[float], costs: Sequence[float], per_second: float) -> float:
    """Return the most that was started in any window, beyond what the rate alone allows for it.

    Args:
        starts: moments in seconds, in order.
        costs: what each took of the rate.
        per_second: the rate.
    """
    most, best_begin, before = -math.inf, -math.inf, 0.0
    for start, cost in zip(starts, costs, strict=True):
        best_begin = max(best_begin, per_second * start - before)
        before += cost
        most = max(most, before - per_second * start + best_begin)
    return most


def excess(starts: Sequence[float], costs: Sequence[float], rate: Rate, lapse: float) -> float:
    """Return by how much the worst window broke the law; nothing or less if none did."""
    return ahead(starts, costs, rate.per_second) - rate.per_second * lapse - rate.capacity


def reached(starts: Sequence[float], costs: Sequence[float], rate: Rate) -> float:
    """Return the part of the rate that was reached from the first start to the last.

    The burst doesn't count: it was saved up before.
    """
    return (sum(costs) - rate.capacity) / (rate.per_second * (starts[-1] - starts[0]))


def at_once(calls: Sequence[float], seconds: float) -> list[tuple[float, int]]:
    """Return how many calls were out from each moment on at which that changed.

    Args:
        calls: when each arrived.
        seconds: how long each took.
    """
    changes = sorted([(call, 1) for call in calls] + [(call + seconds, -1) for call in calls])
    out, steps = 0, []
    for moment, change in changes:
        out += change
        steps.append((moment, out))
    return steps


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below or at which that part of all are, by nearest rank."""
    return sorted(values)[max(0, math.ceil(len(values) * part) - 1)]
