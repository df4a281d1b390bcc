"""Brings jobs back that nobody answers for: lost messages, dead workers, a Redis that forgot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract
from goodsyard.deaths import Death, OnDeath, unmourned
from goodsyard.dispatch import DISPATCH_SECONDS, QUARANTINE, QUARANTINE_AFTER
from goodsyard.job import JobState

CRASH_BUDGET = 6
"""Deliveries a job may lose before it is dead: three in company, the others in quarantine."""

SILENT_SECONDS = 5.0
"""Silence after which a worker process's external claims are due; it beats every second."""

ALIVE_SECONDS = 15.0
"""Silence after which a worker no longer counts as one that could have run a job."""

BATCH = 500

# Claims of a process that stopped beating are due at once, whatever is left of their lease.
_EXPIRE_SILENT = text("""
    UPDATE goodsyard.job SET deadline = now()
     WHERE id = ANY(ARRAY(
           SELECT j.id FROM goodsyard.job j
            WHERE j.state IN ('dispatched', 'running') AND j.state = 'running'
              AND j.deadline > now() AND j.claimed_by IS NOT NULL
              AND NOT EXISTS (SELECT FROM goodsyard.worker w
                               WHERE w.id = j.claimed_by
                                 AND w.beat_at > now() - make_interval(secs => :silent))
            LIMIT :most FOR UPDATE SKIP LOCKED))
""")

# SKIP LOCKED: a dispatched row that is locked is being carried out right now. What was dispatched
# no earlier than the oldest message in its queue merely waits there; when that was follows from the
# deadline (a hundredth of a second is for the rounding on the message's way through JSON).
_RETURN = text("""
    WITH overdue AS MATERIALIZED (
        SELECT j.id,
               CASE WHEN j.state = 'running' AND NOT q.repeatable THEN 'uncertain'
                    WHEN j.lost + 1 >= :budget THEN 'lost' END AS reason
          FROM goodsyard.job j
          JOIN unnest(CAST(:kinds AS text[]), CAST(:repeatable AS bool[]),
                      CAST(:queued_since AS float8[])) AS q(kind, repeatable, queued_since)
         USING (kind)
         WHERE j.state IN ('dispatched', 'running') AND j.deadline <= now()
           AND (j.state = 'running' OR coalesce(
                j.deadline - make_interval(secs => :seconds * power(2, least(j.lost, 6)))
                < to_timestamp(least(q.queued_since, CASE WHEN j.lost >= :quarantine_after
                                     THEN CAST(:quarantined_since AS float8) END) - 0.01), true))
         ORDER BY j.deadline LIMIT :most FOR UPDATE OF j SKIP LOCKED)
    UPDATE goodsyard.job j
       SET state = CASE WHEN o.reason IS NULL THEN 'waiting' ELSE 'dead' END::goodsyard.job_state,
           reason = o.reason,
           finished_at = CASE WHEN o.reason IS NOT NULL THEN now() END,
           error = CASE o.reason
                   WHEN 'lost' THEN 'its worker died or fell silent ' || :budget || ' times'
                   WHEN 'uncertain' THEN 'its worker died or fell silent during the call'
                   ELSE j.error END,
           lost = j.lost + 1, deadline = NULL, claimed_by = NULL
      FROM overdue o
     WHERE j.id = o.id AND j.id = ANY(ARRAY(SELECT id FROM overdue))
    RETURNING j.id, j.tenant, j.subject, j.kind, j.state, j.reason
""")

# Not one of them is counted as lost: it was Redis that forgot, no worker died.
_RESET = text("""
    UPDATE goodsyard.job SET state = 'waiting', deadline = NULL
     WHERE id = ANY(ARRAY(
           SELECT id FROM goodsyard.job
            WHERE state = 'dispatched' AND state IN ('dispatched', 'running')
            LIMIT :most FOR UPDATE SKIP LOCKED))
""")

_LIVE_QUEUES = text("""
    SELECT queue, count(*)::int AS processes
      FROM goodsyard.worker, unnest(queues) AS q(queue)
     WHERE beat_at > now() - make_interval(secs => :alive)
     GROUP BY queue
""")


@dataclass(frozen=True, slots=True)
class Returned:
    """A job that was taken back: to wait again, or dead."""

    id: UUID
    subject: UUID | None
    kind: str
    state: JobState


async def live_queues(tx: AsyncSession) -> dict[str, int]:
    """Return how many live worker processes consume each queue that has any."""
    rows = await tx.execute(_LIVE_QUEUES, {"alive": ALIVE_SECONDS})
    return {row.queue: row.processes for row in rows}


async def return_overdue(
    tx: AsyncSession,
    contracts: Sequence[type[Contract]],
    queued_since: Mapping[str, float],
    on_death: OnDeath = unmourned,
) -> list[Returned]:
    """Take up to ``BATCH`` overdue jobs back, one lost delivery counted each.

    Args:
        tx: the transaction; nothing else belongs in it.
        contracts: those whose queue has a live worker. An outage of all workers kills no job.
        queued_since: when the oldest message of a queue was dispatched, in seconds since 1970; a
            queue without one is empty. A job whose message may still be in its queue isn't lost,
            however long the queue is.
        on_death: what follows when a job dies of it.
    """
    await tx.execute(_EXPIRE_SILENT, {"silent": SILENT_SECONDS, "most": BATCH})
    parameters = {
        "kinds": [contract.kind for contract in contracts],
        "repeatable": [contract.policy.repeatable for contract in contracts],
        "queued_since": [queued_since.get(contract.policy.queue) for contract in contracts],
        "quarantined_since": queued_since.get(QUARANTINE),
        "quarantine_after": QUARANTINE_AFTER,
        "seconds": DISPATCH_SECONDS,
        "budget": CRASH_BUDGET,
        "most": BATCH,
    }
    rows = list(await tx.execute(_RETURN, parameters))
    deaths = [
        Death(row.id, row.tenant, row.kind, row.subject, row.reason)
        for row in rows
        if row.state == JobState.DEAD
    ]
    if deaths:
        await on_death(tx, deaths)
    return [Returned(row.id, row.subject, row.kind, JobState(row.state)) for row in rows]


async def reset_dispatched(tx: AsyncSession) -> int:
    """Return a batch of dispatched jobs to the backlog after Redis lost its queues.

    Repeatable, and never waits behind a chunk that is being carried out. Call until it returns 0.
    """
    result = await tx.execute(_RESET, {"most": BATCH})
    return result.rowcount  # type: ignore[attr-defined, no-any-return]  # a CursorResult: an UPDATE
