"""Takes delivered jobs, by id and fence: of any number of copies of a delivery one gets the row."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import structlog
from pydantic import JsonValue, ValidationError
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract
from goodsyard.database import fetch
from goodsyard.job import Job
from goodsyard.outcomes import Cancelled, Outcome, Refused, Snooze
from goodsyard.run import Run
from goodsyard.steps import CALLED_OFF

Delivery: TypeAlias = tuple[UUID, int]
"""A job's id and the fence it was dispatched under."""

NEWER_VERSION = timedelta(seconds=15)
"""How long a job waits whose contract is newer than the worker that got it."""

LOOK_AGAIN_SECONDS = (0.002, 0.01, 0.03, 0.1)
"""When a delivered job that is locked is looked at again; whoever holds it longer is running it."""

_log = structlog.get_logger(__name__)


class UpCastError(Exception):
    """An older payload can't be made one of today's; the message says between which versions."""


class Claimed(NamedTuple):
    """A job's row, locked or leased by us."""

    id: UUID
    fence: int
    tenant: int
    version: int
    attempts: int
    subject: UUID | None
    trace_context: str | None
    run_at: datetime
    workflow: UUID | None
    cancel_requested: bool
    start_in: float | None
    """Seconds until its grant lapses, where a limit let it go; below none if it has."""
    age: float
    payload: JsonValue

    def parse(self, contract: type[Contract], run: Run | None = None) -> Job[Contract] | Outcome:
        """Return the job with its payload parsed, or how it ends since it can't be or mustn't."""
        if self.cancel_requested:
            return Cancelled("called off before it was run again; an earlier run fell silent")
        if self.version > contract.version:
            # Nobody's failure: a rollout that takes its time must not use up the attempts.
            _log.warning("job.newer_version", kind=contract.kind, theirs=self.version)
            return Snooze(NEWER_VERSION)
        if self.start_in is not None and self.start_in <= 0:
            return self.handed_back()
        try:
            payload = contract.model_validate(self._upcast(contract))
        except UpCastError as error:
            return Refused(str(error))
        except ValidationError as error:
            return Refused(f"the payload does not fit {contract.kind}: {error}")
        return Job(self.id, self.tenant, self.age, payload, run or Run(self.fence))

    def _upcast(self, contract: type[Contract]) -> object:
        """Return the payload as one of the contract's version.

        Raises:
            UpCastError: an up-caster couldn't make sense of it.
        """
        payload: Any = self.payload  # whatever an older contract had
        for version in range(self.version, contract.version):
            try:
                payload = contract.upcasters[version](payload)
            except Exception as error:
                message = f"{contract.kind}: no version {version + 1} from {version}: {error!r}"
                raise UpCastError(message) from error
        return payload

    def handed_back(self) -> Snooze:
        """Return the outcome that puts the job back into its place in the line, unspent."""
        return Snooze(self.run_at)


class Leased(NamedTuple):
    """What may have been written to a job's row since it was claimed."""

    cancel_requested: bool
    workflow: UUID | None


_COLUMNS = f"""
           j.id, j.fence, j.tenant, j.version, j.attempts, j.subject, j.trace_context, j.run_at,
           j.workflow, j.cancel_requested OR {CALLED_OFF} AS cancel_requested,
           extract(epoch FROM j.start_by - clock_timestamp())::float8 AS start_in,
           extract(epoch FROM now() - coalesce(j.started_at, now()))::float8 AS age, j.payload"""

# The state is compared as text, which no index has: so the way to a row is its id, and never
# through all that is dispatched, which the planner may believe to be nothing.
# SKIP LOCKED: a second copy of the message never waits for the first, it finds nothing to do.
_LOCK_DISPATCHED = text(f"""
    SELECT {_COLUMNS}
      FROM goodsyard.job j
      JOIN unnest(CAST(:ids AS uuid[]), CAST(:fences AS int[])) AS m(id, fence) USING (id, fence)
     WHERE CAST(j.state AS text) = 'dispatched' AND j.kind = :kind
     ORDER BY j.id
       FOR UPDATE OF j SKIP LOCKED
""")  # noqa: S608 - what is put in is the constant above

_LEASE = text(f"""
    WITH mine AS MATERIALIZED (
        SELECT j.id, coalesce(j.start_by <= now(), false) AS lapsed
          FROM goodsyard.job j
          JOIN unnest(CAST(:ids AS uuid[]), CAST(:fences AS int[])) AS m(id, fence)
         USING (id, fence)
         WHERE j.kind = :kind
           AND (CAST(j.state AS text) = 'dispatched'
                OR (:again AND j.state = 'running' AND j.claimed_by = :worker
                    AND j.id <> ALL(CAST(:known AS uuid[]))))
         ORDER BY j.id
           FOR UPDATE OF j SKIP LOCKED),
    handed_back AS (
        UPDATE goodsyard.job SET state = 'waiting', deadline = NULL
         WHERE id = ANY(ARRAY(SELECT id FROM mine WHERE lapsed)))
    UPDATE goodsyard.job j
       SET state = 'running', claimed_by = :worker, started_at = coalesce(j.started_at, now()),
           deadline = now() + make_interval(secs => :lease)
     WHERE j.id = ANY(ARRAY(SELECT id FROM mine WHERE NOT lapsed))
    RETURNING {_COLUMNS}
""")  # noqa: S608 - what is put in is the constant above

_LOCK_RUNNING = text("""
    SELECT j.id, j.cancel_requested, j.workflow
      FROM goodsyard.job j
      JOIN unnest(CAST(:ids AS uuid[]), CAST(:fences AS int[])) AS m(id, fence) USING (id, fence)
     WHERE CAST(j.state AS text) = 'running'
     ORDER BY j.id
       FOR UPDATE OF j
""")


_LOCK_HELD = text(f"""
    SELECT {_COLUMNS}
      FROM goodsyard.job j
      JOIN unnest(CAST(:ids AS uuid[]), CAST(:fences AS int[])) AS m(id, fence) USING (id, fence)
     WHERE CAST(j.state AS text) = 'dispatched'
        OR (j.state = 'running' AND j.claimed_by = :worker)
     ORDER BY j.id
       FOR UPDATE OF j SKIP LOCKED
""")  # noqa: S608 - what is put in is the constant above


_STILL_DISPATCHED = text("""
    SELECT EXISTS (
           SELECT FROM goodsyard.job j
             JOIN unnest(CAST(:ids AS uuid[]), CAST(:fences AS int[])) AS m(id, fence)
            USING (id, fence)
            WHERE CAST(j.state AS text) = 'dispatched' AND j.kind = :kind)
""")


def _parameters(deliveries: Sequence[Delivery]) -> dict[str, object]:
    return {"ids": [job for job, _ in deliveries], "fences": [fence for _, fence in deliveries]}


async def lock_dispatched(
    tx: AsyncSession, kind: str, deliveries: Sequence[Delivery]
) -> list[Claimed]:
    """Lock the delivered jobs that are still ours to run, until the end of the transaction.

    What is stale (fence), taken (locked), finished or of another kind is left out in silence.
    """
    claimed = await _take(tx, _LOCK_DISPATCHED, {"kind": kind}, deliveries)
    return sorted(claimed, key=attrgetter("id"))


async def lease(  # noqa: PLR0913 - a lease has a kind, a holder and an end, and may be a second try
    tx: AsyncSession,
    kind: str,
    deliveries: Sequence[Delivery],
    *,
    worker: UUID,
    seconds: float,
    again: bool = False,
    known: Collection[UUID] = (),
) -> list[Claimed]:
    """Move the delivered jobs that are still ours to ``running``, for ``seconds`` from now.

    What a limit let go too long ago isn't ours any more: it waits again.

    Args:
        tx: the transaction.
        kind: of the jobs; others are left alone.
        deliveries: what the message names.
        worker: who holds them from now on.
        seconds: for how long.
        again: whether this repeats a lease whose commit was not answered. It may have happened:
            what ``worker`` holds without knowing it, since it isn't among ``known``, is returned.
        known: the jobs that ``worker`` knows it holds.
    """
    parameters = {
        "kind": kind,
        "worker": worker,
        "lease": seconds,
        "again": again,
        "known": list(known),
    }
    claimed = await _take(tx, _LEASE, parameters, deliveries)
    # RETURNING has an order of its own; the message's is by urgency.
    place = {job: number for number, (job, _) in enumerate(deliveries)}
    return sorted(claimed, key=lambda claimed: place[claimed.id])


async def _take(
    tx: AsyncSession,
    statement: TextClause,
    parameters: dict[str, object],
    deliveries: Sequence[Delivery],
) -> list[Claimed]:
    """Claim what is free, and look again, for a moment, at what is only locked.

    A relay whose look began before another's dispatch was committed finds those rows taken only
    once it has locked them, and lets go of them at its own commit. Passed over, they would wait for
    their deadline, and count as lost.
    """
    claimed: list[Claimed] = []
    left = deliveries
    for pause in (*LOOK_AGAIN_SECONDS, None):
        rows = await fetch(tx, statement, parameters | _parameters(left))
        claimed += [Claimed(*row) for row in rows]
        taken = {row.id for row in claimed}
        left = [delivery for delivery in deliveries if delivery[0] not in taken]
        if not left or pause is None:
            break
        of_kind = {"kind": parameters["kind"], **_parameters(left)}
        if not await tx.scalar(_STILL_DISPATCHED, of_kind):
            break
        await asyncio.sleep(pause)
    return claimed


async def lock_running(tx: AsyncSession, deliveries: Sequence[Delivery]) -> dict[UUID, Leased]:
    """Lock the leased jobs that are still ours; return what was written to each meanwhile.

    A missing one was taken back when its lease ended, and its answer must be dropped: whoever has
    it now repeats the same call under the same key.
    """
    rows = await fetch(tx, _LOCK_RUNNING, _parameters(deliveries))
    return {row[0]: Leased(*row[1:]) for row in rows}


async def lock_held(
    tx: AsyncSession, deliveries: Sequence[Delivery], *, worker: UUID
) -> list[Claimed]:
    """Lock the jobs that ``worker`` ran and failed to finish, to write the failure down."""
    rows = await tx.execute(_LOCK_HELD, {"worker": worker, **_parameters(deliveries)})
    return [Claimed(*row) for row in rows]
