"""What people do to jobs and queues by hand: safe at any moment, and written down in ``audit``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import steps
from goodsyard.contracts import Contract, Effect
from goodsyard.job import JobState
from goodsyard.jobs import JobView, read_job
from goodsyard.recall import CANCEL_MINE
from goodsyard.steps import CALLED_OFF, Followed

MOST_AT_ONCE = 1_000
"""Dead jobs one call revives: a statement of some 50 ms."""


class NotNowError(Exception):
    """The job is in no state for what was asked; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it, for the audit log: a tenant and the name of its key."""

    tenant: int
    name: str


@dataclass(frozen=True, slots=True)
class Revived:
    """A job that was dead and waits again."""

    id: UUID
    kind: str


# Where this meets the claim or the settlement of an external job it waits for that, some
# milliseconds: no such row is locked during a call. So what it finds afterwards either waits, and
# is taken back at once, or runs, and has been asked. A database kind's chunk is not waited for.
_ASK = text("""
    UPDATE goodsyard.job SET cancel_requested = true
     WHERE tenant = :tenant AND id = :id AND kind = ANY(CAST(:external AS text[]))
       AND workflow IS NULL AND NOT cancel_requested
       AND CAST(state AS text) IN ('waiting', 'dispatched', 'running')
    RETURNING id
""")

_CANCEL = text(f"""
    WITH mine AS MATERIALIZED (
        SELECT id FROM goodsyard.job
         WHERE tenant = :tenant AND id = :id AND kind = ANY(CAST(:kinds AS text[]))
           AND state IN ('waiting', 'dispatched') AND workflow IS NULL
           FOR UPDATE SKIP LOCKED),
    {CANCEL_MINE}
""")  # noqa: S608 - what is put in is a constant

# The fence stays: a message of the job's former life must never match. So does the first start:
# what may have reached a provider once can't be un-started, and its key ages from then. A twin that
# is live (or dead and younger) holds the unique key, so its older brothers stay dead.
_REVIVE = text(f"""
    UPDATE goodsyard.job j
       SET state = 'waiting', attempts = 0, lost = 0, run_at = now(), deadline = NULL,
           claimed_by = NULL, reason = NULL, error = NULL, finished_at = NULL,
           cancel_requested = false
     WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.tenant = :tenant AND j.state = 'dead'
       AND NOT {CALLED_OFF}
       AND (j.unique_key IS NULL OR NOT EXISTS (
            SELECT FROM goodsyard.job twin
             WHERE twin.tenant = j.tenant AND twin.kind = j.kind
               AND twin.unique_key = j.unique_key AND twin.id <> j.id
               AND (twin.state IN ('waiting', 'dispatched', 'running')
                    OR (twin.id > j.id AND twin.id = ANY(CAST(:ids AS uuid[]))))))
    RETURNING j.id, j.kind
""")  # noqa: S608 - what is put in is a constant

_FIND_DEAD = text("""
    SELECT id FROM goodsyard.job
     WHERE tenant = :tenant AND state = 'dead'
       AND (CAST(:kinds AS text[]) IS NULL OR kind = ANY(CAST(:kinds AS text[])))
       AND (CAST(:reason AS text) IS NULL OR reason = CAST(:reason AS text))
     ORDER BY id LIMIT :most
""")

_HAS_LIVE = text("SELECT EXISTS (SELECT FROM goodsyard.job WHERE workflow = :workflow)")

_PAUSE = text("UPDATE goodsyard.queue SET paused = :paused WHERE name = :name RETURNING name")

_AUDIT = text("""
    INSERT INTO goodsyard.audit (tenant, actor, action, target, detail)
    SELECT :tenant, :actor, :action, target, CAST(:detail AS jsonb)
      FROM unnest(CAST(:targets AS text[])) AS t(target)
""")


async def cancel_job(
    tx: AsyncSession, actor: Actor, job_id: UUID, *, contracts: Mapping[str, type[Contract]]
) -> JobView | None:
    """Call a job off: one that waits at once, an external one that runs by asking it to end.

    What a worker has in hand decides itself (``Run.check``): it may still succeed. One that is
    cancelled already, or asked to end, is left so.

    Args:
        tx: the transaction; the caller commits and then rings for the job and its subject.
        actor: who asks; another tenant's job is as good as absent.
        job_id: the job.
        contracts: by kind, those that nothing else depends on, so that a person may cancel them
            alone.

    Returns:
        The job as it is now, or ``None`` if there is no such job.

    Raises:
        NotNowError: it is over, of another kind, or a step of a workflow, or a database kind's
            chunk holds it.
    """
    external = [kind for kind, one in contracts.items() if one.effect is Effect.EXTERNAL]
    parameters = {"tenant": actor.tenant, "id": job_id, "kinds": list(contracts)}
    asked = await tx.scalar(_ASK, {**parameters, "external": external}) is not None
    cancelled = await tx.scalar(_CANCEL, parameters) is not None
    job = await read_job(tx, actor.tenant, job_id)
    if asked or cancelled:
        await record(tx, actor, "job.cancel", [str(job_id)])
    elif job is not None and not (job.state is JobState.CANCELLED or job.cancel_requested):
        raise NotNowError(_why_not_cancelled(job, contracts))
    return job


def _why_not_cancelled(job: JobView, kinds: Collection[str]) -> str:
    if job.state in {JobState.SUCCEEDED, JobState.DEAD}:
        return f"It is {job.state} already; nothing is left to call off."
    if job.workflow is not None:
        return f"It is a step of workflow {job.workflow}: cancel the workflow."
    if job.kind not in kinds:
        return (
            f"{job.kind} is a step of an order or a payment, which would be left half done: "
            "cancel the order instead."
        )
    return "A worker is carrying it out at this moment; wait for its end."


async def retry_job(tx: AsyncSession, actor: Actor, job_id: UUID) -> JobView | None:
    """Let a dead job run again from the start, under the same id and so the same provider keys.

    Returns:
        The job as it is now, or ``None`` if there is no such job.

    Raises:
        NotNowError: it isn't dead, a live job holds its unique key, or its workflow was abandoned.
    """
    revived = await retry_jobs(tx, actor, [job_id])
    job = await read_job(tx, actor.tenant, job_id)
    if job is not None and not revived:
        raise NotNowError(_why_not_retried(job))
    return job


def _why_not_retried(job: JobView) -> str:
    if job.state is not JobState.DEAD:
        return f"It is {job.state}; only a dead job is retried."
    if job.unique_key is None:
        return f"Its workflow {job.workflow} was abandoned; nothing of it is carried out any more."
    return f"Another job with its unique key {job.unique_key!r} is live; wait for that one's end."


async def retry_jobs(tx: AsyncSession, actor: Actor, ids: Sequence[UUID]) -> list[Revived]:
    """Let those of the jobs that are dead run again; the caller commits and rings their kinds."""
    rows = await tx.execute(_REVIVE, {"tenant": actor.tenant, "ids": list(ids)})
    revived = [Revived(*row) for row in rows]
    await record(tx, actor, "job.retry", [str(job.id) for job in revived])
    return revived


async def cancel_workflow(tx: AsyncSession, actor: Actor, workflow: UUID) -> Followed | None:
    """Abandon a workflow that isn't over: see ``goodsyard.steps.abandon``.

    Asked again, it calls off what was being changed by somebody else the first time.

    Args:
        tx: the transaction; the caller commits and then rings.
        actor: who asks; another tenant's workflow is as good as absent.
        workflow: its id.

    Returns:
        What followed, or ``None`` if there is no such workflow.

    Raises:
        NotNowError: every step has succeeded, or it makes up for another one.
    """
    held = (await steps.hold(tx, [workflow], alone=True)).get(workflow)
    if held is None or held.tenant != actor.tenant:
        return None
    if held.undoes is not None:
        raise NotNowError(
            f"It makes up for workflow {held.undoes}; that would be left half undone."
        )
    if held.abandoned:
        return Followed(frozenset(), await steps.call_off(tx, [workflow]))
    if not await tx.scalar(_HAS_LIVE, {"workflow": workflow}):
        raise NotNowError("Every step has succeeded; nothing is left to call off.")
    await record(tx, actor, "workflow.cancel", [str(workflow)])
    return await steps.abandon(tx, [workflow], steps.CANCELLED)


async def find_dead(
    tx: AsyncSession,
    tenant: int,
    *,
    kinds: Collection[str] | None = None,
    reason: str | None = None,
    most: int = MOST_AT_ONCE,
) -> list[UUID]:
    """Return the tenant's dead jobs, oldest first, up to ``most``."""
    parameters = {
        "tenant": tenant,
        "kinds": None if kinds is None else list(kinds),
        "reason": reason,
        "most": most,
    }
    return list(await tx.scalars(_FIND_DEAD, parameters))


async def pause_queue(tx: AsyncSession, actor: Actor, name: str, *, paused: bool) -> bool:
    """Hold a queue's jobs back, or let them go; relays follow within a second or two.

    What was dispatched before still runs. Returns whether there is such a queue.
    """
    known = await tx.scalar(_PAUSE, {"name": name, "paused": paused}) is not None
    if known:
        await record(tx, actor, "queue.pause" if paused else "queue.resume", [name])
    return known


async def record(
    tx: AsyncSession,
    actor: Actor,
    action: str,
    targets: Sequence[str],
    detail: dict[str, JsonValue] | None = None,
) -> None:
    """Write down who did what to which, in the transaction that does it."""
    if targets:
        parameters = {
            "tenant": actor.tenant,
            "actor": actor.name,
            "action": action,
            "targets": list(targets),
            "detail": orjson.dumps(detail or {}).decode(),
        }
        await tx.execute(_AUDIT, parameters)
