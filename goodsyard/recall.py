"""Takes jobs back from the flow, or hurries them, on behalf of the thing they work on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from goodsyard.database import fetch

CANCEL_MINE = """
    gone AS (
        DELETE FROM goodsyard.job WHERE id = ANY(ARRAY(SELECT id FROM mine)) RETURNING *)
    INSERT INTO goodsyard.job_done
           (id, tenant, kind, version, state, priority, run_at, fence, attempts, lost, max_attempts,
            subject, parent_id, unique_key, limit_key, trace_context, workflow, payload, error,
            created_at, started_at, finished_at)
    SELECT id, tenant, kind, version, 'cancelled', priority, run_at, fence, attempts, lost,
           max_attempts, subject, parent_id, unique_key, limit_key, trace_context, workflow,
           payload, error, created_at, started_at, clock_timestamp()
      FROM gone
    RETURNING id, subject
"""
"""Ends the jobs that a CTE called ``mine`` has locked, as cancelled."""

# SKIP LOCKED: a chunk that is at work on the job holds it, and will find out by itself what the
# caller has written under the lock that they share. An external job that was ever started may have
# reached its provider, even if it waits again now.
_CANCEL_UNSTARTED = text(f"""
    WITH mine AS MATERIALIZED (
        SELECT id FROM goodsyard.job
         WHERE subject = ANY(CAST(:subjects AS uuid[])) AND kind = :kind AND started_at IS NULL
           AND state IN ('waiting', 'dispatched', 'dead') AND workflow IS NULL
           FOR UPDATE SKIP LOCKED),
    {CANCEL_MINE}
""")  # noqa: S608 - what is put in is the constant above

# A branch a state, each on its own partial index. What is dispatched is a second or two of work, so
# the first state is looked for among those with a deadline.
_LATE = """
           AND kind = :kind AND started_at IS NULL AND payload ->> :member IS NOT NULL
           AND run_at < now() - make_interval(secs => :seconds)
"""
_OVERDUE = text(f"""
    SELECT tenant, payload FROM goodsyard.job
     WHERE state = 'waiting' AND waits_for = 0 {_LATE}
     UNION ALL
    SELECT tenant, payload FROM goodsyard.job
     WHERE state IN ('dispatched', 'running') AND state = 'dispatched' {_LATE}
     UNION ALL
    SELECT tenant, payload FROM goodsyard.job
     WHERE state = 'dead' {_LATE}
     LIMIT :most
""")  # noqa: S608 - what is put in is the constant above

_UNDECIDED = text("""
    SELECT payload FROM goodsyard.job
     WHERE subject = :subject AND kind = :kind AND reason IS DISTINCT FROM 'refused'
""")


_CALLED_OFF = text("""
    SELECT id FROM goodsyard.job WHERE id = ANY(CAST(:ids AS uuid[])) AND cancel_requested
""")

_HURRY = text("""
    UPDATE goodsyard.job SET run_at = now()
     WHERE id = ANY(ARRAY(
           SELECT id FROM goodsyard.job
            WHERE subject = ANY(CAST(:subjects AS uuid[])) AND kind = :kind
              AND state = 'waiting' AND run_at > now()
            LIMIT :most FOR UPDATE SKIP LOCKED))
""")

MOST_HURRIED = 1_000
"""Jobs that one call makes due: a statement of some 50 ms; the others come at their time."""


class Overdue(NamedTuple):
    """A job that should have begun long ago."""

    tenant: int
    payload: dict[str, JsonValue]


async def cancel_unstarted(tx: AsyncSession, subjects: Collection[UUID], kind: str) -> set[UUID]:
    """Cancel jobs of ``kind`` on ``subjects`` that have not begun, and return whose they were.

    The caller holds the lock on each subject that a chunk takes after its jobs: the job of one that
    isn't returned is either over or waits for that lock right now, or is a step of a workflow,
    which isn't taken from among the others and finds out under that lock in its turn.
    """
    rows = await tx.execute(_CANCEL_UNSTARTED, {"subjects": list(subjects), "kind": kind})
    return {row.subject for row in rows}


async def overdue(
    tx: AsyncSession, kind: str, seconds: float, *, member: str, most: int
) -> list[Overdue]:
    """Return jobs of ``kind`` that have been due for ``seconds`` and have never begun.

    Whatever keeps them: a pause, a limit, no worker, or that they are dead without a single start.
    Nothing is locked: whoever acts on it takes them back with ``cancel_unstarted``.

    Args:
        tx: the transaction.
        kind: of the jobs.
        seconds: for how long they have been due, by the database's clock.
        member: what their payload must have, and not as null.
        most: the most to return.
    """
    parameters = {"kind": kind, "seconds": seconds, "member": member, "most": most}
    return [Overdue(*row) for row in await tx.execute(_OVERDUE, parameters)]


async def undecided(tx: AsyncSession, subject: UUID, kind: str) -> Sequence[dict[str, JsonValue]]:
    """Return the payloads of jobs of ``kind`` on ``subject`` that may still have an effect."""
    return list(await tx.scalars(_UNDECIDED, {"subject": subject, "kind": kind}))


async def called_off(tx: AsyncSession | AsyncConnection, ids: Collection[UUID]) -> set[UUID]:
    """Return those of the jobs, which run, that were asked to end."""
    return {job for (job,) in await fetch(tx, _CALLED_OFF, {"ids": list(ids)})}


async def hurry(tx: AsyncSession, subjects: Collection[UUID], kind: str) -> None:
    """Make jobs of ``kind`` due that wait for their time on ``subjects``: it has changed for them.

    What is locked is on its way already; beyond ``MOST_HURRIED`` they wait as before.
    """
    parameters = {"subjects": list(subjects), "kind": kind, "most": MOST_HURRIED}
    await tx.execute(_HURRY, parameters)
