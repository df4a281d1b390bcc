"""What a job leaves behind when it runs: its number and the moment, in a file of its process.

Whoever measures reads off them how fast the jobs ran, and that each ran exactly once. A mark is 16
bytes and one unbuffered append. The standard library is all it takes: the peers, each in an
environment of its own, leave the same marks.
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

FOLDER = "BENCH_MARKS"
"""The environment variable that names the folder of the files."""

_MARK = struct.Struct("=QQ")


@cache
def _file(pid: int) -> int:
    path = Path(os.environ[FOLDER]) / str(pid)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def leave(*numbers: int) -> None:
    """Say that the jobs of these numbers run now."""
    now = time.monotonic_ns()
    os.write(_file(os.getpid()), b"".join(_MARK.pack(number, now) for number in numbers))


def count(folder: Path) -> int:
    """Return how many marks there are, without reading them."""
    return sum(file.stat().st_size for file in folder.iterdir()) // _MARK.size


def read(folder: Path) -> list[tuple[int, int]]:
    """Return all marks as pairs of a job's number and its moment (monotonic, nanoseconds)."""
    return [mark for file in folder.iterdir() for mark in _MARK.iter_unpack(file.read_bytes())]


def rate(folder: Path, expected: Iterable[int]) -> float:
    """Return jobs a second, from the first mark to the last.

    Raises:
        ValueError: a job ran twice, or not at all.
    """
    marks = read(folder)
    ran, wanted = Counter(number for number, _ in marks), set(expected)
    lost, doubled = wanted - ran.keys(), [number for number, times in ran.items() if times > 1]
    if lost or doubled:
        raise ValueError(f"{len(lost)} jobs never ran, {len(doubled)} ran more than once")
    moments = [moment for _, moment in marks]
    return len(marks) / ((max(moments) - min(moments)) / 1e9)
