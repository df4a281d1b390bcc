"""Who may start now: shares a batch, a rate's tokens and free places out among lanes; no I/O."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from goodsyard.lanes import Lane


class Weighed(NamedTuple):
    """A lane, and its part in a batch relative to those of others."""

    lane: Lane
    weight: float


class Allowance(NamedTuple):
    """How much a lane may dispatch: jobs, and tokens that they may cost together."""

    lane: Lane
    most: int
    tokens: float


_Split: TypeAlias = Callable[[float, Sequence[float]], list[float]]
"""Divides an amount by weights."""


def allot(
    lanes: Sequence[Weighed],
    most: int,
    *,
    tokens: Mapping[str, float],
    places: Mapping[str, float],
    priced: bool,
) -> list[Allowance]:
    """Return what each lane may dispatch of a batch; lanes that may nothing are left out.

    What lanes share is split by their weights, and rounded by chance, so that in the long run each
    gets its part and none is always the one that gets nothing.

    Args:
        lanes: those with jobs.
        most: jobs in the batch.
        tokens: what a rate has left for each ``limit_key``; infinite without a rate.
        places: what a concurrency leaves free for each ``slot_key``; infinite without one.
        priced: whether jobs cost different amounts of the rate. What one costs isn't known before
            it is read, so then one lane draws on a bucket at a time, with all that is in it.
    """
    able = [
        (lane, weight)
        for lane, weight in lanes
        if places[lane.slot_key] >= 1 and tokens[lane.limit_key] >= (1e-9 if priced else 1)
    ]
    weights = [weight for _, weight in able]
    paid = _share_out(
        [lane.limit_key for lane, _ in able], weights, tokens, _give_one if priced else split
    )
    free = _share_out([lane.slot_key for lane, _ in able], weights, places, split)
    parts = split(most, weights)
    allowances = []
    for (lane, _), part, tokens_for_it, places_for_it in zip(able, parts, paid, free, strict=True):
        jobs = int(min(part, places_for_it, part if priced else tokens_for_it))
        if jobs > 0 and tokens_for_it > 0:
            allowances.append(Allowance(lane, jobs, tokens_for_it))
    return allowances


def _share_out(
    keys: Sequence[str], weights: Sequence[float], amounts: Mapping[str, float], split: _Split
) -> list[float]:
    """Return each lane's part of what all lanes with its key have together."""
    sharing: defaultdict[str, list[int]] = defaultdict(list)
    for lane, key in enumerate(keys):
        sharing[key].append(lane)
    parts = [0.0] * len(keys)
    for key, lanes in sharing.items():
        for lane, part in zip(
            lanes, split(amounts[key], [weights[lane] for lane in lanes]), strict=True
        ):
            parts[lane] = part
    return parts


def split(total: float, weights: Sequence[float]) -> list[float]:
    """Return whole parts that sum up to ``total``, each within one of its weight's share."""
    if math.isinf(total):
        return [total] * len(weights)
    whole, everything = math.floor(total), sum(weights)
    # One throw for all: the running sum, rounded by it, gives each its part and leaves no rest.
    throw, passed, given = random.random(), 0.0, 0  # noqa: S311 - fairness, no secret
    parts = [0.0] * len(weights)
    order = random.sample(range(len(weights)), len(weights))
    for number, lane in enumerate(order, start=1):
        passed += whole * weights[lane] / everything
        upto = whole if number == len(order) else min(whole, math.floor(passed + throw))
        parts[lane], given = upto - given, upto
    return parts


def _give_one(total: float, weights: Sequence[float]) -> list[float]:
    """Return all of it for one, whom chance chooses by weight."""
    (chosen,) = random.choices(range(len(weights)), weights)  # noqa: S311 - fairness, no secret
    return [total if lane == chosen else 0.0 for lane in range(len(weights))]
