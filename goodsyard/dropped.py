"""How much was delivered and not run, by reason: nothing is lost by it, and somebody may ask why.

A count may be lost with the process that holds it, and never costs a job or a worker anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


class Reason(StrEnum):
    """Why a message, or one of the deliveries in it, was dropped."""

    STALE = "stale"
    """A delivery without a job that waits for it: a copy, an old fence, an unknown id, another
    kind. Some of these are everyday: a relay that isn't sure sends again."""
    MALFORMED = "malformed"
    """A message of a kind there is, not made of ids and fences; or of another version."""
    UNKNOWN = "unknown"
    """A message of a kind that the worker doesn't know: perhaps it is older than the relay."""
    UNREADABLE = "unreadable"
    """Anything else in a queue: somebody writes to Redis who shouldn't."""


# A worker that stands still in the middle of this must not hold up the others, whose heartbeats
# wait for it: they keep their counts and try again.
_HURRY = text("SET LOCAL lock_timeout = '50ms'")

_ADD = text("""
    INSERT INTO goodsyard.dropped AS d (reason, count)
    SELECT * FROM unnest(CAST(:reasons AS text[]), CAST(:counts AS bigint[])) ORDER BY 1
    ON CONFLICT (reason) DO UPDATE SET count = d.count + excluded.count, last_at = now()
""")

_READ = text("SELECT reason, count FROM goodsyard.dropped ORDER BY reason")


async def add(tx: AsyncSession, counts: Mapping[Reason, int]) -> None:
    """Add to what was dropped.

    Args:
        tx: the transaction; nothing else belongs in it, for it gives up soon.
        counts: how much, since the last time.

    Raises:
        sqlalchemy.exc.OperationalError: somebody else is adding, and takes more than a moment.
    """
    await tx.execute(_HURRY)
    await tx.execute(_ADD, {"reasons": list(counts), "counts": list(counts.values())})


async def read(tx: AsyncSession) -> dict[str, int]:
    """Return how much was dropped since the tables were made, by reason; 0 where nothing was."""
    found = {reason: count for reason, count in await tx.execute(_READ)}  # noqa: C416 - rows
    return {reason.value: 0 for reason in Reason} | found
