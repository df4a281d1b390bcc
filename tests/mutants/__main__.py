"""Switches off one guard after the other, in a copy, and fails unless the rows meant for it fail.

A mutant is a patch in this folder. Its first lines name the guard and the rows of the fault matrix;
the product itself has no switch for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SECONDS = 900.0
"""The most that the rows of one mutant may take; what hangs under a mutant has not caught it."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A guard, the patch that switches it off, and the rows that must then fail."""

    name: str
    guard: str
    rows: tuple[int, ...]
    patch: Path

    @classmethod
    def read(cls, patch: Path) -> Self:
        """Return what a patch says of itself.

        Raises:
            ValueError: it doesn't begin with a sentence and its rows.
        """
        guard, rows, *_ = patch.read_text().splitlines()
        word, *numbers = rows.split()
        if word != "rows:" or not numbers:
            raise ValueError(f"{patch.name}: its second line must be `rows: ` and their numbers")
        return cls(patch.stem, guard, tuple(map(int, numbers)), patch)

    @property
    def expression(self) -> str:
        """What pytest selects the rows by."""
        return " or ".join(f"row(number={number})" for number in self.rows)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the rows ended under a mutant: the law that caught it first, if one did."""

    caught_by: str | None
    seconds: float
    words: str


def mutants(names: Sequence[str] = ()) -> list[Mutant]:
    """Return the mutants of those names; all, if none is named."""
    known = [Mutant.read(patch) for patch in sorted(HERE.glob("*.patch"))]
    return [mutant for mutant in known if not names or mutant.name in names]


def switch_off(mutant: Mutant, folder: Path) -> None:
    """Copy what git knows of the tree into ``folder``, and apply the patch there.

    Raises:
        subprocess.CalledProcessError: the patch no longer fits the code: make it anew.
    """
    listed = _git("ls-files", "-z", folder=ROOT)
    for name in filter(None, listed.split("\0")):
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    _git("apply", "-p0", str(mutant.patch), folder=folder)


def judge(mutant: Mutant) -> Verdict:
    """Run the rows against a copy in which the guard is off."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="goodsyard-mutant-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # where we are root, the servers are not, and must pass through
        switch_off(mutant, folder)
        report = folder / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/faults", "-m", mutant.expression]
        command += ["--maxfail", "1", "-p", "no:cacheprovider", "-q", f"--junit-xml={report}"]
        try:
            ended = subprocess.run(
                command,
                cwd=folder,
                env=_environment(folder),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Verdict(None, SECONDS, "it hung")
        caught_by = _first_failure(report) if ended.returncode == 1 else None
        return Verdict(caught_by, time.monotonic() - began, ended.stdout[-2_000:])


def main() -> int:
    """Judge the mutants named on the command line, or all; return 1 if one survives."""
    console = Console(width=120)
    table = Table("guard that was switched off", "rows", "caught by", "s", title="Mutants")
    survivors = []
    for mutant in mutants(sys.argv[1:]):
        console.print(f"{mutant.name}: rows {', '.join(map(str, mutant.rows))} ...")
        verdict = judge(mutant)
        if verdict.caught_by is None:
            survivors.append(mutant.name)
            console.print(f"SURVIVED. pytest's last words:\n{verdict.words}", markup=False)
        rows = ", ".join(map(str, mutant.rows))
        caught = verdict.caught_by or "NOT CAUGHT"
        table.add_row(mutant.guard, rows, caught, f"{verdict.seconds:.0f}")
    console.print(table)
    if survivors:
        console.print(f"{len(survivors)} survived: {', '.join(survivors)}")
    return 1 if survivors else 0


def _git(*arguments: str, folder: Path) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def _environment(folder: Path) -> dict[str, str]:
    # Ahead of the installed product, which is the tree without the mutant.
    return {**os.environ, "PYTHONPATH": str(folder)}


def _first_failure(report: Path) -> str | None:
    """Return the name of the test that failed, not of one that could not be run."""
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest's own words
        if case.find("failure") is not None:
            return case.get("name")
    return None


if __name__ == "__main__":
    sys.exit(main())
