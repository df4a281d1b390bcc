"""Runs systems in turn, round by round, so that whatever drifts on the machine hits all alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from psycopg import Error as PostgresError
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.arms import WARM_UP, Arm, Figures, Say
from benchmarks.figures import readable
from benchmarks.processes import BenchmarkError
from ops.errors import CommandError

FAILURES = (BenchmarkError, CommandError, OSError, PostgresError, RedisError, SQLAlchemyError)
"""What ends a system's turns, and not the benchmark."""


@dataclass(slots=True)
class Section:
    """What a section came to.

    Attributes:
        runs: the figures of each counted run.
        failures: why a system has none, by its name.
    """

    runs: list[Figures] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def carry_out(arms: Sequence[Arm], runs: int, say: Say) -> Section:
    """Carry out one section: a warm-up of all, then each once, ``runs`` times over.

    A system that fails once has no figures: those of its other runs are those of good luck.
    """
    section = Section()
    of: dict[str, list[Figures]] = {arm.system: [] for arm in arms}
    for number, arm in _turns(arms, runs):
        if arm.system in section.failures:
            continue
        which = f"run {number} of {arm.runs or runs}" if number else "warm-up"
        say(f"{arm.section}: {arm.system}, {which}")
        try:
            figures = arm.run(arm.jobs if number else max(1, arm.jobs // WARM_UP))
        except FAILURES as error:
            section.failures[arm.system] = str(error) or repr(error)
            say(f"{arm.section}: {arm.system} failed: {error}")
            continue
        say(f"{arm.section}: {arm.system}, {which}: {_in_words(figures)}")
        if number:
            of[arm.system].append(figures)
    section.runs = [
        figures
        for system, measured in of.items()
        if system not in section.failures
        for figures in measured
    ]
    return section


def _turns(arms: Sequence[Arm], runs: int) -> Iterator[tuple[int, Arm]]:
    """Give each turn with the number of its round; 0 is the warm-up."""
    for number in range(runs + 1):
        for arm in arms:
            if arm.warms_up if number == 0 else number <= (arm.runs or runs):
                yield number, arm


def _in_words(figures: Figures) -> str:
    return ", ".join(
        f"{section} {readable(value)}" + (f" ({system})" if len(systems) > 1 else "")
        for section, systems in figures.items()
        for system, value in systems.items()
    )
