"""Moves due jobs from the backlog to a delivery: first the commit, then, elsewhere, the message.

The message has no authority: it names rows and fences, and a row that is dispatched and never
claimed comes back by its deadline. Any number of relays may do this at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from goodsyard.claims import Delivery
from goodsyard.database import fetch

DISPATCH_SECONDS = 5.0
"""How long a dispatched job may go unanswered before it counts as lost; doubles with each loss."""

QUARANTINE_AFTER = 3
"""Lost deliveries after which a job is tried only where it can harm no neighbour."""

QUARANTINE = "quarantine"
"""The queue where that is."""

BATCH = 1_000
"""Jobs one transaction dispatches at the most: some 10 ms of row locks."""


WORTH_A_MESSAGE = 25
"""Jobs below which a chunk isn't split: a message and its commits cost about what that many do."""


class Dispatched(NamedTuple):
    """A job that is on its way from now on."""

    id: UUID
    fence: int
    lost: int
    sent_at: float
    """The database's time of the dispatch, in seconds since 1970."""

    @property
    def delivery(self) -> Delivery:
        """What a message says of it."""
        return self.id, self.fence


# The array form keeps the plan an index scan (UPDATE … FROM planned a hash join over the whole
# table); the state is a literal since a parameter would lose the partial index; a probe a priority
# keeps jobs scheduled for next year at priority 0 from being read through at every round.
_DISPATCH = text("""
    UPDATE goodsyard.job
       SET state = 'dispatched', fence = fence + 1,
           deadline = now() + make_interval(secs => :seconds * power(2, least(lost, 6)))
     WHERE id = ANY(ARRAY(
           SELECT due.id
             FROM generate_series(0, 9) AS p(priority)
            CROSS JOIN LATERAL (
                  SELECT id FROM goodsyard.job
                   WHERE state = 'waiting' AND kind = :kind AND priority = p.priority
                     AND run_at <= now()
                   ORDER BY run_at LIMIT :most FOR UPDATE SKIP LOCKED) AS due
            LIMIT :most))
    RETURNING id, fence, lost, extract(epoch FROM now())::float8, priority, run_at
""")

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

# ORDER BY: without it the planner, told that most jobs wait, reads the whole table for a kind and
# priority that has none (500 ms at a backlog of 180,000, at every round; with it 2 ms).
_DUE_KINDS = text("""
    SELECT k.kind
      FROM unnest(CAST(:kinds AS text[])) AS k(kind)
     WHERE EXISTS (
           SELECT FROM generate_series(0, 9) AS p(priority)
            CROSS JOIN LATERAL (
                  SELECT FROM goodsyard.job j
                   WHERE j.state = 'waiting' AND j.kind = k.kind AND j.priority = p.priority
                     AND j.run_at <= now()
                   ORDER BY j.run_at LIMIT 1) AS due)
""")


_PAUSED = text("SELECT name FROM goodsyard.queue WHERE paused")


async def paused_queues(tx: AsyncSession) -> set[str]:
    """Return the queues whose jobs stay in the backlog until they are resumed."""
    return set(await tx.scalars(_PAUSED))


async def due_kinds(tx: AsyncConnection | AsyncSession, kinds: Sequence[str]) -> set[str]:
    """Return which of ``kinds`` have a job due, in one statement."""
    return {kind for (kind,) in await fetch(tx, _DUE_KINDS, {"kinds": list(kinds)})}


async def dispatch(tx: AsyncConnection | AsyncSession, kind: str, most: int) -> list[Dispatched]:
    """Dispatch up to ``most`` due jobs of ``kind``, urgent ones first, then by their time.

    Publish them only after the commit: a message ahead of its commit finds the job still waiting,
    is dropped, and the job then waits for its deadline.
    """
    parameters = {"kind": kind, "most": most, "seconds": DISPATCH_SECONDS}
    rows = await fetch(tx, _DISPATCH, parameters)
    # RETURNING has an order of its own, and the first in the batch are in the first message.
    urgent_first = sorted(rows, key=itemgetter(4, 5))
    return [Dispatched(*row[:4]) for row in urgent_first]


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


def batch_size(chunk: int, workers: int) -> int:
    """Return how many jobs to dispatch at once: for each worker a chunk to run and one in reserve.

    Args:
        chunk: jobs a message of the kind may carry.
        workers: processes that consume its queue.
    """
    return min(BATCH, 2 * chunk * max(1, workers))


def chunks(
    dispatched: Sequence[Dispatched], *, most: int, workers: int, more: bool = False
) -> list[Chunk]:
    """Share jobs out to messages.

    A lone job goes alone and at once (latency); a backlog goes in chunks (throughput), shared among
    the workers unless the shares were too small to be worth a message. A job that was lost before
    goes alone: it may be the one that kills its worker.

    Args:
        dispatched: the jobs of one kind.
        most: jobs a message may carry.
        workers: processes that consume the kind's queue.
        more: whether there is more in the backlog: everybody gets the most then.
    """
    fresh = [job.delivery for job in dispatched if job.lost == 0]
    suspects = [job for job in dispatched if job.lost > 0]
    share = math.ceil(len(fresh) / max(1, workers))
    size = most if more else min(most, max(share, WORTH_A_MESSAGE))
    shared = [Chunk(tuple(fresh[at : at + size])) for at in range(0, len(fresh), size)]
    return shared + [Chunk((job.delivery,), job.lost >= QUARANTINE_AFTER) for job in suspects]
