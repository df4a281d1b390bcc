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


# The oldest, of which those go that no row of a job is left of; to look through all of them would
# take the longer the more there are.
_FORGET_WORKFLOWS = text("""
    WITH oldest AS MATERIALIZED (
        SELECT id FROM goodsyard.workflow ORDER BY id LIMIT 1000),
    gone AS (
        DELETE FROM goodsyard.workflow w
         WHERE w.id = ANY(ARRAY(SELECT id FROM oldest)) AND w.created_at < now() - interval '1 day'
           AND NOT EXISTS (SELECT FROM goodsyard.job j WHERE j.workflow = w.id)
           AND NOT EXISTS (SELECT FROM goodsyard.job_done d WHERE d.workflow = w.id)
        RETURNING w.id),
    forgotten AS (
        DELETE FROM goodsyard.step s WHERE s.workflow = ANY(ARRAY(SELECT id FROM gone)))
    DELETE FROM goodsyard.dependency d WHERE d.workflow = ANY(ARRAY(SELECT id FROM gone))
""")


async def make_partitions(tx: AsyncSession) -> None:
    """Make the partitions of the coming days; those that exist are left alone."""
    await tx.execute(_MAKE, {"days": DAYS_AHEAD})


async def forget_expired_keys(tx: AsyncSession) -> None:
    """Delete a batch of idempotency keys that have expired."""
    await tx.execute(_FORGET)


async def forget_workflows(tx: AsyncSession) -> None:
    """Delete those of the oldest workflows whose jobs were all dropped by retention."""
    await tx.execute(_FORGET_WORKFLOWS)
