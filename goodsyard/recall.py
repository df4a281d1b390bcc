"""Takes jobs back from the flow on behalf of the thing they work on, before they have begun."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

CANCEL_MINE = """
    gone AS (
        DELETE FROM goodsyard.job WHERE id = ANY(ARRAY(SELECT id FROM mine)) RETURNING *)
    INSERT INTO goodsyard.job_done
           (id, tenant, kind, version, state, priority, run_at, fence, attempts, lost, max_attempts,
            subject, parent_id, unique_key, limit_key, trace_context, payload, error, created_at,
            started_at, finished_at)
    SELECT id, tenant, kind, version, 'cancelled', priority, run_at, fence, attempts, lost,
           max_attempts, subject, parent_id, unique_key, limit_key, trace_context, payload, error,
           created_at, started_at, clock_timestamp()
      FROM gone
    RETURNING id
"""
"""Ends the jobs that a CTE called ``mine`` has locked, as cancelled."""

# SKIP LOCKED: a chunk that is at work on the job holds it, and will find out by itself what the
# caller has written under the lock that they share. An external job that was ever started may have
# reached its provider, even if it waits again now.
_CANCEL_UNSTARTED = text(f"""
    WITH mine AS MATERIALIZED (
        SELECT id FROM goodsyard.job
         WHERE subject = :subject AND kind = :kind AND started_at IS NULL
           AND state IN ('waiting', 'dispatched', 'dead')
           FOR UPDATE SKIP LOCKED),
    {CANCEL_MINE}
""")  # noqa: S608 - what is put in is the constant above

_UNDECIDED = text("""
    SELECT payload FROM goodsyard.job
     WHERE subject = :subject AND kind = :kind AND reason IS DISTINCT FROM 'refused'
""")


async def cancel_unstarted(tx: AsyncSession, subject: UUID, kind: str) -> list[UUID]:
    """Cancel jobs of ``kind`` on ``subject`` that have not begun, and return their ids.

    The caller holds the lock on the subject that a chunk takes after its jobs: what isn't returned
    is either over or waits for that lock right now.
    """
    return list(await tx.scalars(_CANCEL_UNSTARTED, {"subject": subject, "kind": kind}))


async def undecided(tx: AsyncSession, subject: UUID, kind: str) -> Sequence[dict[str, JsonValue]]:
    """Return the payloads of jobs of ``kind`` on ``subject`` that may still have an effect."""
    return list(await tx.scalars(_UNDECIDED, {"subject": subject, "kind": kind}))
