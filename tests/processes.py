"""What tests ask of the processes they start: who descends from whom, and who is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants, the ancestors first."""
    children = [child for child in _processes() if _status(child).get("PPid") == str(pid)]
    return [pid, *(member for child in children for member in tree(child))]


def living(pids: Iterable[int]) -> list[int]:
    """Return those that still run; a zombie doesn't, it only waits to be asked how it ended."""
    return [pid for pid in pids if _status(pid).get("State", "Z")[0] not in "ZX"]


def frozen(pid: int) -> bool:
    """Tell whether a process was stopped (SIGSTOP) where it is."""
    return _status(pid).get("State", "Z")[0] == "T"


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Return as soon as ``condition`` holds.

    Raises:
        AssertionError: it didn't within ``seconds``; says ``what`` was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"Waited {seconds} s in vain: {what}"
        time.sleep(0.02)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
