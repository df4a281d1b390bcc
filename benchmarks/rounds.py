"""Runs systems in turn, round by round, so that whatever drifts on the machine hits all alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from psycopg import Error as PostgresError
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.arms import LEAST, WARM_UP, Arm, Figures
from benchmarks.figures import readable
from benchmarks.processes import BenchmarkError
from benchmarks.terminal import Terminal
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


def turns(arms: Sequence[Arm], runs: int, *, warm_up: bool = True) -> Iterator[tuple[int, Arm]]:
    """Give each turn of a section with the number of its round; 0 is the warm-up.

    Args:
        arms: the systems, in the order of their turns.
        runs: rounds that count, except for arms that have fewer.
        warm_up: whether there is a warm-up at all.
    """
    for number in range(0 if warm_up else 1, runs + 1):
        for arm in arms:
            if arm.warms_up if number == 0 else number <= (arm.runs or runs):
                yield number, arm


def carry_out(of_section: Iterable[tuple[int, Arm]], tell: Terminal) -> Section:
    """Carry out the turns of one section.

    A system that fails once has no figures: those of its other runs are those of good luck.
    """
    section = Section()
    counted: defaultdict[str, list[Figures]] = defaultdict(list)
    for number, arm in of_section:
        if arm.system in section.failures:
            continue
        turn = f"{arm.section}: {arm.system}, " + (f"run {number}" if number else "warm-up")
        tell.begin(turn)
        try:
            figures = arm.run(arm.jobs if number else max(LEAST, arm.jobs // WARM_UP))
        except FAILURES as error:
            section.failures[arm.system] = str(error) or repr(error)
            tell.say(f"{turn} failed: {error}")
            continue
        finally:
            tell.end()
        tell.say(f"{turn}: {_in_words(figures)}")
        if number:
            counted[arm.system].append(figures)
    section.runs = [
        figures
        for system, measured in counted.items()
        if system not in section.failures
        for figures in measured
    ]
    return section


def _in_words(figures: Figures) -> str:
    return ", ".join(
        f"{section} {readable(value)}" + (f" ({system})" if len(systems) > 1 else "")
        for section, systems in figures.items()
        for system, value in systems.items()
    )
