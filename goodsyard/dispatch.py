"""Moves due jobs from the backlog to a delivery: first the commit, then, elsewhere, the message.

The message has no authority: it names rows and fences, and a row that is dispatched and never
claimed comes back by its deadline. Any number of relays may do this at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from goodsyard import lanes
from goodsyard.claims import Delivery
from goodsyard.database import fetch
from goodsyard.lanes import BEGINNING, WITH_LANES, Lane, first_of

DISPATCH_SECONDS = 5.0
"""How long a dispatched job may go unanswered before it counts as lost; doubles with each loss."""

QUARANTINE_AFTER = 3
"""Lost deliveries after which a job is tried only where it can harm no neighbour."""

QUARANTINE = "quarantine"
"""The queue where that is."""

BATCH = 1_000
"""Jobs one transaction dispatches at the most: some 10 ms of row locks."""

URGENT = 0
"""The priority that has a lane of its own in the queue: it overtakes what is there already."""

WORTH_A_MESSAGE = 25
"""Jobs below which a chunk isn't split: a message and its commits cost about what that many do."""


class Dispatched(NamedTuple):
    """A job that is on its way from now on."""

    id: UUID
    fence: int
    lost: int
    sent_at: float
    """The database's time of the dispatch, in seconds since 1970."""
    priority: int
    run_at: datetime
    tenant: int

    @property
    def delivery(self) -> Delivery:
        """What a message says of it."""
        return self.id, self.fence


class Batch(NamedTuple):
    """What one look dispatched, as ``in_turn`` has it."""

    jobs: list[Dispatched]
    end: Lane | None = None
    """Where the next look should begin, if there were more lanes than one takes in."""


DISPATCHED = "id, fence, lost, extract(epoch FROM now())::float8, priority, run_at, tenant"


def _dispatching(only: str) -> str:
    """Return the statement that gives each lane its part of a batch.

    The array form keeps the plan an index scan (UPDATE … FROM planned a hash join over the whole
    table). A part is rounded up or down by chance, so that it is right in the long run; where there
    are more lanes than jobs in the batch, chance decides by weight who is in it (Efraimidis and
    Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    return f"""
    {WITH_LANES},
    due AS MATERIALIZED (
        SELECT first.id, lane.number, lane.part
          FROM (SELECT *, greatest(1, floor(:most * weight / sum(weight) OVER () + random()))::int
                       AS part
                  FROM weighed ORDER BY -ln(1 - random()) / weight) AS lane
         CROSS JOIN LATERAL ({first_of("lane", "lane.part", only)}) AS first
         LIMIT :most),
    moved AS (
        UPDATE goodsyard.job
           SET state = 'dispatched', fence = fence + 1, start_by = NULL,
               deadline = now() + make_interval(secs => :seconds * power(2, least(lost, 6)))
         WHERE id = ANY(ARRAY(SELECT id FROM due))
        RETURNING {DISPATCHED})
    SELECT moved.*,
           (SELECT count(*) < :most FROM due)
           AND EXISTS (SELECT FROM due GROUP BY number HAVING count(*) >= min(part)) AS refill,
           final.tenant, final.limit_key, final.slot_key
      FROM (VALUES (1)) AS always
      LEFT JOIN moved ON true
      LEFT JOIN lane AS final ON final.number = :most_lanes
"""  # noqa: S608 - no value gets in here, only SQL of our own


_DISPATCH = text(_dispatching("true"))
_DISPATCH_URGENT = text(_dispatching(f"priority = {URGENT}"))

# SKIP LOCKED: a row that is locked has a worker, so its message did get through.
_TAKE_BACK = text("""
    UPDATE goodsyard.job SET state = 'waiting', deadline = NULL
     WHERE id = ANY(ARRAY(
           SELECT j.id
             FROM goodsyard.job j
             JOIN unnest(CAST(:ids AS uuid[]), CAST(:fences AS int[])) AS m(id, fence)
            USING (id, fence)
            WHERE CAST(j.state AS text) = 'dispatched'
              FOR UPDATE OF j SKIP LOCKED))
""")

# The index is skipped through, lane by lane and priority by priority, up to the first that is due.
_DUE_KINDS = text("""
    SELECT k.kind
      FROM unnest(CAST(:kinds AS text[])) AS k(kind)
     CROSS JOIN LATERAL (
           SELECT FROM goodsyard.job j
            WHERE j.state = 'waiting' AND j.waits_for = 0 AND j.kind = k.kind AND j.run_at <= now()
            LIMIT 1) AS due
""")


_PAUSED = text("SELECT name FROM goodsyard.queue WHERE paused")


async def paused_queues(tx: AsyncSession) -> set[str]:
    """Return the queues whose jobs stay in the backlog until they are resumed."""
    return set(await tx.scalars(_PAUSED))


async def due_kinds(tx: AsyncConnection | AsyncSession, kinds: Sequence[str]) -> set[str]:
    """Return which of ``kinds`` have a job due, in one statement."""
    return {kind for (kind,) in await fetch(tx, _DUE_KINDS, {"kinds": list(kinds)})}


async def dispatch(
    tx: AsyncConnection | AsyncSession,
    kind: str,
    most: int,
    *,
    behind: Lane = BEGINNING,
    urgent: bool = False,
) -> Batch:
    """Dispatch up to ``most`` due jobs of ``kind``, to each tenant its share.

    Publish them only after the commit: a message ahead of its commit finds the job still waiting,
    is dropped, and the job then waits for its deadline.

    Args:
        tx: a transaction, or a connection on which each statement commits itself.
        kind: of the jobs; no limit is asked for.
        most: how many, at least one.
        behind: the lane after which to look.
        urgent: whether to take those of priority ``URGENT`` alone.
    """
    statement = _DISPATCH_URGENT if urgent else _DISPATCH
    jobs: list[Dispatched] = []
    while True:
        rows = await fetch(
            tx,
            statement,
            {"kind": kind, "most": most - len(jobs), "seconds": DISPATCH_SECONDS}
            | lanes.behind(behind),
        )
        jobs += [Dispatched(*row[:7]) for row in rows if row[0] is not None]
        *_, refill, tenant, limit_key, slot_key = rows[0]
        if not refill:
            break
    return Batch(in_turn(jobs), None if tenant is None else Lane(tenant, limit_key, slot_key))


def in_turn(jobs: Iterable[Dispatched]) -> list[Dispatched]:
    """Return a batch as its tenants take turns; the first in it are in the first message.

    Urgent jobs are first. A tenant's others are by priority, then by their time, and spread evenly:
    one job among another's hundred doesn't wait for those.
    """
    in_line = sorted(jobs, key=attrgetter("priority", "run_at"))
    counts = Counter(job.tenant for job in in_line)
    if len(counts) <= 1:
        return in_line
    taken: Counter[int] = Counter()
    places: list[tuple[bool, float, int]] = []
    for place, job in enumerate(in_line):
        places.append((job.priority != URGENT, taken[job.tenant] / counts[job.tenant], place))
        taken[job.tenant] += 1
    return [in_line[place] for *_, place in sorted(places)]


async def take_back(tx: AsyncSession, deliveries: Sequence[Delivery]) -> None:
    """Return to the backlog what couldn't be published. The fences stay used."""
    await tx.execute(
        _TAKE_BACK,
        {"ids": [job for job, _ in deliveries], "fences": [fence for _, fence in deliveries]},
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """The deliveries of one message, and whether they go to the quarantine queue."""

    deliveries: tuple[Delivery, ...]
    quarantined: bool = False
    urgent: bool = False
    """Whether it overtakes what is in its queue already."""


def batch_size(chunk: int, workers: int, waiting: int = 0) -> int:
    """Return how many jobs to dispatch at once: for each worker a chunk to run and one in reserve.

    Args:
        chunk: jobs a message of the kind may carry.
        workers: processes that consume its queue.
        waiting: messages that are there already.
    """
    return min(BATCH, chunk * max(1, 2 * max(1, workers) - waiting))


def chunks(
    dispatched: Sequence[Dispatched],
    *,
    most: int,
    workers: int,
    more: bool = False,
    hurry: bool = False,
) -> list[Chunk]:
    """Share jobs out to messages.

    A lone job goes alone and at once (latency); a backlog goes in chunks (throughput), shared among
    the workers unless the shares were too small to be worth a message. A job that was lost before
    goes alone: it may be the one that kills its worker. Urgent jobs overtake what is in the queue,
    a small chunk of them at a time: whoever calls everything urgent holds nobody up.

    Args:
        dispatched: the jobs of one kind.
        most: jobs a message may carry.
        workers: processes that consume the kind's queue.
        more: whether there is more in the backlog: everybody gets the most then.
        hurry: whether they are few that can't wait in a queue, since their grants lapse.
    """
    fresh = [job for job in dispatched if job.lost == 0]
    suspects = [job for job in dispatched if job.lost > 0]
    small = min(most, WORTH_A_MESSAGE)
    at_once = sum(hurry or job.priority == URGENT for job in fresh[:small])
    urgent = [Chunk(_deliveries(fresh[:at_once]), urgent=True)] if at_once else []
    others = fresh[at_once:]
    share = math.ceil(len(others) / max(1, workers))
    size = most if more else min(most, max(share, WORTH_A_MESSAGE))
    shared = [Chunk(_deliveries(others[at : at + size])) for at in range(0, len(others), size)]
    alone = [Chunk((job.delivery,), job.lost >= QUARANTINE_AFTER) for job in suspects]
    return urgent + shared + alone


def _deliveries(jobs: Sequence[Dispatched]) -> tuple[Delivery, ...]:
    return tuple(job.delivery for job in jobs)
