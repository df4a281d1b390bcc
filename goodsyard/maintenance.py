"""Housekeeping that nobody waits for: partitions ahead of time, expired keys away."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

DAYS_AHEAD = 7
"""Partitions of finished jobs made in advance; beyond them rows go to the default partition."""

_MAKE = text("""
    SELECT goodsyard.make_day_partition((now() AT TIME ZONE 'UTC')::date + n)
      FROM generate_series(0, :days) AS n
""")

_FORGET = text("""
    DELETE FROM goodsyard.request_key
     WHERE ctid = ANY(ARRAY(SELECT ctid FROM goodsyard.request_key
                             WHERE expires_at < now() LIMIT 10000 FOR UPDATE SKIP LOCKED))
""")


async def make_partitions(tx: AsyncSession) -> None:
    """Make the partitions of the coming days; those that exist are left alone."""
    await tx.execute(_MAKE, {"days": DAYS_AHEAD})


async def forget_expired_keys(tx: AsyncSession) -> None:
    """Delete a batch of idempotency keys that have expired."""
    await tx.execute(_FORGET)
