"""How much the relay and the worker processes grow over a million jobs: the one that grows most.

From the second half of the first tenth, when all is warm, to the last tenth. Memory is each
process's own plus its part of what it shares (Pss, see proc_pid_smaps(5)).
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from functools import partial
from pathlib import Path

from benchmarks import marks
from benchmarks.arms import Arm, Figures
from benchmarks.jobs import Noop
from benchmarks.processes import BenchmarkError, children
from benchmarks.sections.queue import SYSTEM, fill
from benchmarks.yard import Shop, Yard

_JOBS = 1_000_000
_WARM = range(5, 10)
_LAST = range(90, 101)

_PSS = re.compile(r"^Pss: +(\d+) kB$", re.MULTILINE)


def arms(shop: Shop) -> list[Arm]:
    """Return the arm of ``memory``: one run, which takes minutes."""
    return [Arm("memory", SYSTEM, _JOBS, partial(_run, shop), runs=1, warms_up=False)]


def _run(shop: Shop, jobs: int) -> Figures:
    with shop.yard() as yard:
        fill(yard, [Noop(number=number) for number in range(jobs)])
        watch = _Watch(yard, jobs)
        yard.wait("jobs have run", watch.look, jobs)
        yard.await_done(Noop.kind, jobs)
    return {"memory": {SYSTEM: watch.growth()}}


class _Watch:
    """Looks at the memory of a relay and of a worker with its children, from their start."""

    def __init__(self, yard: Yard, jobs: int) -> None:
        self._marks = yard.ground.marks
        self._jobs = jobs
        self._relay, self._worker = yard.start_relay(), yard.start_workers()
        self._seen: defaultdict[int, dict[range, list[int]]] = defaultdict(
            lambda: {_WARM: [], _LAST: []}
        )

    def look(self) -> int:
        """Note what every process has, and return how many jobs have run."""
        done = marks.count(self._marks)
        for part in (_WARM, _LAST):
            if done * 100 // self._jobs in part:
                for pid in (self._relay, self._worker, *children(self._worker)):
                    self._seen[pid][part].append(_memory(pid))
        return done

    def growth(self) -> float:
        """Return by how many percent the process grew that grew most.

        Raises:
            BenchmarkError: a process was not there all the time.
        """
        if not self._seen or not all(seen[_WARM] and seen[_LAST] for seen in self._seen.values()):
            raise BenchmarkError("a process came or went: there is no first or last tenth of it")
        return max(
            statistics.mean(seen[_LAST]) / statistics.mean(seen[_WARM]) * 100 - 100
            for seen in self._seen.values()
        )


def _memory(pid: int) -> int:
    found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    return int(found[1]) if found else 0
