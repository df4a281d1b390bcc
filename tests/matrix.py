"""The fault matrix as a table: what goes wrong, which law holds then, and how soon work goes on.

``make faults`` runs the laws and writes the table: docs/proof/faults.md.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree as ET

FAULTS: Mapping[int, str] = MappingProxyType(
    {
        1: "a worker node is killed in the middle of a batch",
        2: "one process of a worker node is killed",
        3: "a worker is frozen past its lease, then goes on",
        4: "a worker is frozen while it holds locks",
        5: "workers, relays and APIs are restarted one by one under load",
        6: "no worker at all, for a long time",
        7: "Redis is killed and restarted empty",
        8: "Redis is flushed under load",
        9: "Redis is down for a minute",
        10: "Redis is frozen",
        11: "all connections to Redis are reset while jobs run",
        12: "a black hole between worker and Redis",
        13: "a slow, narrow link to Redis",
        14: "Redis is out of memory, or a read-only replica",
        15: "Redis forgets its queues and nothing else",
        16: "Postgres is shut down at once and restarted",
        17: "Postgres is killed, again and again",
        18: "sessions are terminated, five a second",
        19: "the connection breaks between a commit and its answer",
        20: "a black hole between worker and Postgres, in a transaction",
        21: "the disk of Postgres is full",
        22: "Postgres has no connection left",
        23: "somebody's transaction stays open for long",
        24: "the gateway charges, and no answer arrives",
        25: "the gateway hangs, errs, or asks for patience",
        26: "the gateway repeats an error that it stored",
        27: "the gateway forgets our keys",
        28: "signed events arrive five times, reordered, forged or late",
        29: "ten copies of a message, three workers",
        30: "a stale fence, an unknown job, another kind",
        31: "what is no message: not JSON, 64 MB, a zip bomb",
        32: "a job that kills whoever runs it",
        33: "a clock that is an hour off, or jumps",
        34: "orders that name the same goods in opposite order",
        35: "five thousand orders for a hundred pieces",
        36: "two to five relays, one of them frozen",
        37: "a relay is killed between its commit and its message",
        38: "fifty submits with one key at once",
        39: "a cancel races the run and the charge",
        40: "a dead letter is replayed three times at once",
        41: "everything at random",
    }
)

ELSEWHERE: Mapping[int, str] = MappingProxyType(
    {
        41: "`make soak`: [soak.txt](soak.txt)",
    }
)
"""Rows without a test, and where they are proved, or that they are not."""


@dataclass(frozen=True, slots=True)
class Law:
    """One test of a row, as it ended."""

    name: str
    file: str
    outcome: str
    recovery: tuple[str, ...]


def read(report: Path) -> dict[int, list[Law]]:
    """Return the laws of a JUnit report by the row of the matrix they are marked with."""
    rows: dict[int, list[Law]] = defaultdict(list)
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest's own words
        properties = [(p.get("name"), p.get("value", "")) for p in case.iter("property")]
        law = Law(
            case.get("name", ""),
            f"{case.get('classname', '').replace('.', '/')}.py",
            _outcome(case),
            tuple(value for name, value in properties if name == "recovery"),
        )
        for name, value in properties:
            if name == "row":
                rows[int(value)].append(law)
    return rows


def _outcome(case: ET.Element) -> str:
    for name in ("failure", "error", "skipped"):
        found = case.find(name)
        if found is not None:
            return name if name != "skipped" else f"skipped: {found.get('message')}"
    return "holds"


def table(rows: Mapping[int, Iterable[Law]]) -> Iterator[str]:
    """Yield the lines of a Markdown table, a line a law."""
    yield "| # | What goes wrong | The law | | Measured |"
    yield "|---|---|---|---|---|"
    for number, fault in FAULTS.items():
        laws = list(rows.get(number, ()))
        if not laws:
            yield f"| {number} | {fault} | {ELSEWHERE.get(number, 'not run this time')} | | |"
        for law in laws:
            words = law.name.removeprefix("test_").replace("_", " ")
            link = f"[{words}](../../{law.file})"
            yield f"| {number} | {fault} | {link} | {law.outcome} | {'; '.join(law.recovery)} |"


def main() -> None:
    """Print the table of the report that the command line names."""
    print("# The fault matrix, as `make faults` found it\n")  # noqa: T201 - this is its output
    print("\n".join(table(read(Path(sys.argv[1])))))  # noqa: T201


if __name__ == "__main__":
    main()
