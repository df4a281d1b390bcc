"""What takes turns: a system in a section, and how many jobs one run of it is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

Figures: TypeAlias = dict[str, dict[str, float]]
"""What one run came to: by section, by system."""

Say: TypeAlias = Callable[[str], None]
"""Tells the person at the terminal what goes on."""

WARM_UP = 10
"""The run that doesn't count is this many times smaller,"""
LEAST = 20
"""but never less than this: a rate is between jobs."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A system in a section.

    Attributes:
        section: what ``--only`` calls it; one measuring may fill several sections of the results.
        system: whose arm it is.
        jobs: how many of them a counted run takes.
        run: carries out one run of so many jobs.
        runs: how many are counted at the most, where one takes minutes.
        warms_up: whether a small run that doesn't count comes first.
    """

    section: str
    system: str
    jobs: int
    run: Callable[[int], Figures]
    runs: int | None = None
    warms_up: bool = True

    def scaled(self, part: float) -> Self:
        """Return the same with that part of its jobs."""
        return replace(self, jobs=max(LEAST, round(self.jobs * part)))
