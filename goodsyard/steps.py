"""What follows from a step's end, in its commit: children are released, or what was done is undone.

Nobody waits in a circle. A worker that ends steps holds their rows, then locks their workflows by
id, then the children by id. Whoever begins with a workflow (adds to it, abandons it) holds it alone
and passes over every job that somebody else has locked. Of two that would miss each other so, the
later finds what the earlier wrote: a step that ends after its workflow was abandoned is undone at
once, one that was added in time is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.job import new_id
from goodsyard.recall import CANCEL_MINE

REFUSED = "refused"
"""Why a workflow is abandoned of which a step was refused for good."""
CANCELLED = "cancelled"
"""Why one is that a person has called off."""

_ABANDONED = """EXISTS (SELECT FROM goodsyard.workflow w
                         WHERE w.id = j.workflow AND w.abandoned_at IS NOT NULL)"""

# What a provider was ever asked for may have happened, so the asking goes on until its answer says
# whether it has to be made up for.
_NOTHING_TO_UNDO = """(coalesce(j.started_at, now()) = now()
                OR NOT EXISTS (SELECT FROM goodsyard.step s
                                WHERE s.job_id = j.id AND s.kind IS NOT NULL))"""

CALLED_OFF = f"""(j.workflow IS NOT NULL AND {_ABANDONED}
            AND (j.reason IS NOT DISTINCT FROM 'refused' OR {_NOTHING_TO_UNDO}))"""
"""SQL: whether a job ``j`` is a step that isn't to be run any more."""

_HOLD = """
    SELECT id, tenant, abandoned_at IS NOT NULL, undoes FROM goodsyard.workflow
     WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id
"""
_HOLD_TOGETHER = text(f"{_HOLD} FOR SHARE")
_HOLD_ALONE = text(f"{_HOLD} FOR UPDATE")

_RELEASE = text("""
    WITH ended AS MATERIALIZED (
        SELECT d.child, count(*) AS parents
          FROM unnest(CAST(:workflows AS uuid[]), CAST(:ids AS uuid[])) AS e(workflow, parent)
          JOIN goodsyard.dependency d USING (workflow, parent)
         GROUP BY d.child),
    held AS MATERIALIZED (
        SELECT j.id FROM goodsyard.job j
         WHERE j.id = ANY(ARRAY(SELECT child FROM ended)) ORDER BY j.id FOR NO KEY UPDATE),
    counted AS (
        UPDATE goodsyard.job j SET waits_for = j.waits_for - ended.parents
          FROM ended
         WHERE j.id = ended.child AND j.id = ANY(ARRAY(SELECT id FROM held))
        RETURNING j.kind, j.waits_for)
    SELECT DISTINCT kind FROM counted WHERE waits_for = 0
""")

_ABANDON = text("""
    UPDATE goodsyard.workflow SET abandoned_at = now(), reason = :reason
     WHERE id = ANY(CAST(:ids AS uuid[])) AND abandoned_at IS NULL AND undoes IS NULL
    RETURNING id
""")

_OPEN_UNDOING = text("""
    INSERT INTO goodsyard.workflow (id, tenant, undoes)
    SELECT n.id, w.tenant, w.id
      FROM unnest(CAST(:ids AS uuid[]), CAST(:undoings AS uuid[])) AS n(workflow, id)
      JOIN goodsyard.workflow w ON w.id = n.workflow
     WHERE EXISTS (SELECT FROM goodsyard.step s WHERE s.workflow = w.id AND s.kind IS NOT NULL)
""")

# A step that isn't a live job any more has taken effect, even if its row went with its day's
# partition: no step is cancelled but by abandoning its workflow, or has that done first.
_DONE_BEFORE = text("""
    SELECT u.id, s.job_id
      FROM goodsyard.step s
      JOIN goodsyard.workflow u ON u.undoes = s.workflow
      LEFT JOIN goodsyard.job_done d ON d.id = s.job_id
     WHERE s.workflow = ANY(CAST(:ids AS uuid[])) AND s.kind IS NOT NULL AND s.undone_by IS NULL
       AND NOT EXISTS (SELECT FROM goodsyard.job j WHERE j.id = s.job_id)
     ORDER BY u.id, d.finished_at DESC NULLS LAST, s.job_id DESC
""")

_DONE_SINCE = text("""
    SELECT u.id, s.job_id
      FROM goodsyard.step s
      JOIN goodsyard.workflow u ON u.undoes = s.workflow
     WHERE s.job_id = ANY(CAST(:ids AS uuid[])) AND s.kind IS NOT NULL AND s.undone_by IS NULL
     ORDER BY s.job_id
""")

_UNDO = text("""
    WITH undo AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:workflows AS uuid[]), CAST(:steps AS uuid[]),
                             CAST(:ids AS uuid[]), CAST(:after AS uuid[]))
            AS u(workflow, step, id, after)),
    marked AS (
        UPDATE goodsyard.step s SET undone_by = u.id
          FROM undo u
         WHERE s.job_id = u.step AND s.job_id = ANY(CAST(:steps AS uuid[]))
        RETURNING s.*, u.workflow AS undoing, u.after),
    chained AS (
        INSERT INTO goodsyard.dependency (workflow, parent, child)
        SELECT undoing, after, undone_by FROM marked WHERE after IS NOT NULL)
    INSERT INTO goodsyard.job (id, tenant, kind, version, max_attempts, subject, limit_key,
                               slot_key, cost, payload, parent_id, trace_context, workflow,
                               waits_for)
    SELECT m.undone_by, m.tenant, m.kind, m.version, m.max_attempts, m.subject, m.limit_key,
           m.slot_key, m.cost, m.payload, m.job_id, d.trace_context, m.undoing,
           (m.after IS NOT NULL)::int
      FROM marked m LEFT JOIN goodsyard.job_done d ON d.id = m.job_id
    RETURNING kind, waits_for
""")

_CALL_OFF = text(f"""
    WITH mine AS MATERIALIZED (
        SELECT j.id FROM goodsyard.job j
         WHERE j.workflow = ANY(CAST(:ids AS uuid[])) AND {_NOTHING_TO_UNDO}
           AND (j.state IN ('waiting', 'dispatched')
                OR (j.state = 'dead' AND j.reason IN ('attempts', 'lost')))
           FOR UPDATE OF j SKIP LOCKED),
    {CANCEL_MINE}
""")  # noqa: S608 - what is put in are constants

_ASK_TO_STOP = text("""
    UPDATE goodsyard.job SET cancel_requested = true
     WHERE id = ANY(ARRAY(
           SELECT j.id FROM goodsyard.job j
            WHERE j.workflow = ANY(CAST(:ids AS uuid[])) AND j.state = 'running'
              AND NOT EXISTS (SELECT FROM goodsyard.step s
                               WHERE s.job_id = j.id AND s.kind IS NOT NULL)
              FOR NO KEY UPDATE SKIP LOCKED))
""")


class Held(NamedTuple):
    """A workflow that the transaction has locked."""

    id: UUID
    tenant: int
    abandoned: bool
    undoes: UUID | None
    """The one it makes up for: then nothing abandons it, whatever dies waits for a person."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What followed from the end of steps."""

    due: frozenset[str]
    """Kinds of which jobs may run now."""
    called_off: Sequence[UUID] = ()
    """Jobs that won't any more."""


@dataclass(slots=True)
class Ends:
    """How steps have ended, each with its workflow."""

    done: dict[UUID, UUID] = field(default_factory=dict)
    refused: dict[UUID, UUID] = field(default_factory=dict)
    cancelled: dict[UUID, UUID] = field(default_factory=dict)
    """Called off one by one: before they became steps, or in an abandoned workflow."""
    others: dict[UUID, UUID] = field(default_factory=dict)
    """Those that wait again, or for a person."""


async def hold(tx: AsyncSession, ids: Iterable[UUID], *, alone: bool) -> dict[UUID, Held]:
    """Lock workflows; ``alone`` keeps those out, too, whose steps end meanwhile."""
    statement = _HOLD_ALONE if alone else _HOLD_TOGETHER
    rows = await tx.execute(statement, {"ids": list(set(ids))})
    return {row[0]: Held(*row) for row in rows}


async def follow(tx: AsyncSession, held: Mapping[UUID, Held], ends: Ends) -> Followed:
    """Do what follows from the ends of steps that the transaction has written down.

    Args:
        tx: the transaction.
        held: their workflows, locked before the ends were written; alone, if a step was refused.
        ends: those.
    """
    gone = {one.id for one in held.values() if one.abandoned}
    going_on = {job: workflow for job, workflow in ends.done.items() if workflow not in gone}
    due = await release(tx, going_on) if going_on else set()
    called_off: list[UUID] = []
    for reason, ended in ((REFUSED, ends.refused), (CANCELLED, ends.cancelled)):
        if failed := set(ended.values()) - gone:
            followed = await abandon(tx, failed, reason)
            due |= followed.due
            called_off += followed.called_off
    if late := [job for job, workflow in ends.done.items() if workflow in gone]:
        due |= await _undo(tx, await _pairs(tx, _DONE_SINCE, late), chained=False)
    if back := gone.intersection(ends.others.values()):
        called_off += await call_off(tx, back)
    return Followed(frozenset(due), called_off)


async def release(tx: AsyncSession, parents: Mapping[UUID, UUID]) -> set[str]:
    """Count what waits for ``parents`` (and their workflows) down; return kinds that are due."""
    parameters = {"ids": list(parents), "workflows": list(parents.values())}
    return set(await tx.scalars(_RELEASE, parameters))


async def abandon(tx: AsyncSession, ids: Collection[UUID], reason: str) -> Followed:
    """Give workflows up, once: what hasn't begun is called off, what took effect is undone.

    What is undone is undone in the reverse order of the steps' ends, one after the other. What is
    being carried out right now comes to its end, and is undone then; so does a step that can be
    undone and may have reached its provider. Nothing is made up for that may not have happened.

    Args:
        tx: the transaction, which holds the workflows alone.
        ids: which; those that undo others, or are abandoned already, are left alone.
        reason: why.
    """
    fresh = set(await tx.scalars(_ABANDON, {"ids": list(ids), "reason": reason}))
    if not fresh:
        return Followed(frozenset())
    undoings = {"ids": list(fresh), "undoings": [new_id() for _ in fresh]}
    await tx.execute(_OPEN_UNDOING, undoings)
    due = await _undo(tx, await _pairs(tx, _DONE_BEFORE, fresh), chained=True)
    return Followed(frozenset(due), await call_off(tx, fresh))


async def call_off(tx: AsyncSession, ids: Collection[UUID]) -> list[UUID]:
    """Cancel what isn't to be run any more of abandoned workflows, and ask what runs to stop."""
    parameters = {"ids": list(ids)}
    await tx.execute(_ASK_TO_STOP, parameters)
    return list(await tx.scalars(_CALL_OFF, parameters))


async def _pairs(
    tx: AsyncSession, statement: TextClause, ids: Collection[UUID]
) -> list[tuple[UUID, UUID]]:
    return [(undoing, step) for undoing, step in await tx.execute(statement, {"ids": list(ids)})]


async def _undo(tx: AsyncSession, steps: Sequence[tuple[UUID, UUID]], *, chained: bool) -> set[str]:
    """Stage what undoes steps, each with the workflow it is staged in; return kinds that are due.

    Args:
        tx: the transaction.
        steps: in the order in which they are undone.
        chained: whether each waits for the one before it in its workflow.
    """
    if not steps:
        return set()
    ids = [new_id() for _ in steps]
    links = pairwise(zip(steps, ids, strict=True))
    following: list[UUID | None] = [
        before if chained and undoing == same else None
        for ((undoing, _), before), ((same, _), _) in links
    ]
    parameters = {
        "workflows": [undoing for undoing, _ in steps],
        "steps": [step for _, step in steps],
        "ids": ids,
        "after": [None, *following],
    }
    return {kind for kind, waits_for in await tx.execute(_UNDO, parameters) if waits_for == 0}
