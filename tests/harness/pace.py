"""How fast the provider saw calls come, and how far they ever ran ahead of a rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, pairwise
from typing import Self

from goodsyard.contracts import Rate
from tests.harness.sandbox import Entry


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of calls that a rate was set for.

    Args:
        a_second: calls a second, without those that the burst allows at the start.
        ahead: the most calls in any window, beyond what the rate alone allows for its length.
        longest_gap: the most seconds between two calls.
    """

    a_second: float
    ahead: float
    longest_gap: float

    @classmethod
    def of(cls, charges: Sequence[Entry], rate: Rate) -> Self:
        """Return the pace of charges, in the order in which they arrived."""
        starts = [datetime.fromisoformat(charge["at"]).timestamp() for charge in charges]
        ahead = max(
            last - first + 1 - rate.per_second * (end - begin)
            for (first, begin), (last, end) in combinations(enumerate(starts), 2)
        )
        a_second = (len(starts) - rate.capacity) / (starts[-1] - starts[0])
        gaps = (later - earlier for earlier, later in pairwise(starts))
        return cls(a_second, ahead, max(gaps))
