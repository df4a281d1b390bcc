"""Brings jobs back that nobody answers for: lost messages, dead workers, a Redis that forgot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract
from goodsyard.dispatch import DISPATCH_SECONDS
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

# SKIP LOCKED: a dispatched row that is locked is being carried out right now.
_RETURN = text("""
    WITH overdue AS MATERIALIZED (
        SELECT id,
               CASE WHEN state = 'running' AND kind = ANY(CAST(:unrepeatable AS text[]))
                    THEN 'uncertain'
                    WHEN lost + 1 >= :budget THEN 'lost' END AS reason
          FROM goodsyard.job
         WHERE state IN ('dispatched', 'running') AND deadline <= now()
           AND kind = ANY(CAST(:kinds AS text[]))
         ORDER BY deadline LIMIT :most FOR UPDATE SKIP LOCKED)
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
    RETURNING j.id, j.subject, j.kind, j.state
""")

# What merely waits in an overloaded queue is neither lost nor sent twice: its message was sent no
# earlier than the oldest one there. When a row was dispatched follows from its deadline.
_EXTEND = text("""
    UPDATE goodsyard.job SET deadline = now() + make_interval(secs => :seconds)
     WHERE id = ANY(ARRAY(
           SELECT id FROM goodsyard.job
            WHERE state = 'dispatched' AND state IN ('dispatched', 'running') AND deadline <= now()
              AND kind = ANY(CAST(:kinds AS text[]))
              AND deadline - make_interval(secs => :seconds * power(2, least(lost, 6)))
                  >= to_timestamp(:since)
            ORDER BY deadline LIMIT :most FOR UPDATE SKIP LOCKED))
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


async def return_overdue(tx: AsyncSession, contracts: Sequence[type[Contract]]) -> list[Returned]:
    """Take overdue jobs back, one lost delivery counted each.

    Args:
        tx: the transaction; nothing else belongs in it.
        contracts: those whose queue has a live worker. An outage of all workers kills no job.
    """
    await tx.execute(_EXPIRE_SILENT, {"silent": SILENT_SECONDS, "most": BATCH})
    parameters = {
        "kinds": [contract.kind for contract in contracts],
        "unrepeatable": [c.kind for c in contracts if not c.policy.repeatable],
        "budget": CRASH_BUDGET,
        "most": BATCH,
    }
    rows = await tx.execute(_RETURN, parameters)
    return [Returned(job, subject, kind, JobState(state)) for job, subject, kind, state in rows]


async def extend_queued(tx: AsyncSession, kinds: Sequence[str], *, since: float) -> None:
    """Give overdue jobs of ``kinds`` more time if their message may still be in its queue.

    Args:
        tx: the transaction; nothing else belongs in it.
        kinds: those of one queue.
        since: when the oldest message of the queue was dispatched, in seconds since 1970.
    """
    await tx.execute(
        _EXTEND,
        {"kinds": list(kinds), "since": since, "seconds": DISPATCH_SECONDS, "most": BATCH},
    )


async def reset_dispatched(tx: AsyncSession) -> int:
    """Return a batch of dispatched jobs to the backlog after Redis lost its queues.

    Repeatable, and never waits behind a chunk that is being carried out. Call until it returns 0.
    """
    result = await tx.execute(_RESET, {"most": BATCH})
    return result.rowcount  # type: ignore[attr-defined, no-any-return]  # a CursorResult: an UPDATE
