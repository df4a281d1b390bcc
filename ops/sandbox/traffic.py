"""Every call that would change something, from its arrival to its answer, refused ones included.

Kept in memory: what took effect is in the journal, this tells who called how often and at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ops.sandbox.clock import iso, now_ms
from ops.sandbox.errors import GatewayError


@dataclass(slots=True)
class Visit:
    """One call; times in Unix milliseconds, and no status where the connection was dropped."""

    path: str
    key: str | None
    at: int
    ended: int | None = None
    status: int | None = None

    def as_json(self) -> dict[str, object]:
        """Return the entry of ``GET /sandbox/calls``."""
        return {
            "path": self.path,
            "idempotency_key": self.key,
            "status": self.status,
            "at": iso(self.at),
            "ended": None if self.ended is None else iso(self.ended),
        }


class Traffic:
    """All calls since the sandbox started, in the order of their arrival."""

    def __init__(self) -> None:
        self._visits: list[Visit] = []

    @contextmanager
    def visit(self, path: str, key: str | None, at: int) -> Iterator[Visit]:
        """Note a call that arrived at ``at``; whoever answers it says with which status."""
        visit = Visit(path, key, at)
        self._visits.append(visit)
        try:
            yield visit
        except GatewayError as refusal:
            visit.status = refusal.status
            raise
        finally:
            visit.ended = now_ms()

    def visits(self, first: int) -> list[dict[str, object]]:
        """Return the calls from the ``first``-th on."""
        return [visit.as_json() for visit in self._visits[first:]]
