"""How long work stood still after a fault: until all that was in hand then has moved on."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import quantiles
from threading import Event

import psycopg

from tests.harness.shop import Shop

PATIENCE_SECONDS = 120.0
_BETWEEN_LOOKS = 0.1

_IN_HAND = "SELECT id, fence FROM goodsyard.job WHERE state IN ('dispatched', 'running')"

InHand = set[tuple[object, object]]


def in_hand(shop: Shop) -> InHand:
    """Return jobs and fences of what is with a worker, or on its way to one."""
    while True:
        try:
            return {(row["id"], row["fence"]) for row in shop.rows(_IN_HAND)}
        except psycopg.OperationalError:
            continue  # the next call connects anew


def until_moved_on(shop: Shop, held: InHand, stopping: Event) -> float:
    """Return the seconds until every job of ``held`` has ended or was sent again.

    Raises:
        AssertionError: some had not after two minutes.
    """
    began = time.monotonic()
    while held & in_hand(shop):
        seconds = time.monotonic() - began
        left = f"{len(held & in_hand(shop))} jobs stood still for {PATIENCE_SECONDS:g} s"
        assert seconds < PATIENCE_SECONDS, left
        stopping.wait(_BETWEEN_LOOKS)
    return time.monotonic() - began


@dataclass
class Recoveries:
    """The seconds that each kind of fault took to recover from."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, fault: str, seconds: float) -> None:
        """Note one recovery."""
        self.seconds[fault].append(seconds)

    @property
    def injected(self) -> int:
        """How many faults there were."""
        return sum(map(len, self.seconds.values()))

    def percentiles(self, fault: str | None = None) -> tuple[float, float]:
        """Return p50 and p99 of one kind of fault, or of all."""
        chosen = [s for name, every in self.seconds.items() for s in every if fault in {None, name}]
        if len(chosen) == 1:
            return chosen[0], chosen[0]
        cuts = quantiles(chosen, n=100, method="inclusive")
        return cuts[49], cuts[98]
