"""Sends events again that an endpoint has had, or should have had, under the ids of before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.interventions import Actor, record, retry_jobs
from goodsyard.job import JobState, first_id_at
from goodsyard.jobs import JobView, list_jobs, read_job
from goodsyard.submit import Staged, stage
from tasks.contracts import SendWebhook

MOST_AT_ONCE = 1_000
"""Events that one call replays; the next call goes on from there."""


class UnknownEventError(Exception):
    """The endpoint was never sent such an event."""


class UnderWayError(Exception):
    """The event is on its way to the endpoint already; the message says by which job."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is sent again.

    Args:
        ids: the ``webhook-id`` of each event.
        before: where to go on if there is more to send: events older than this job.
    """

    ids: Sequence[UUID]
    before: UUID | None = None


async def replay_one(tx: AsyncSession, actor: Actor, endpoint: UUID, event: UUID) -> Replayed:
    """Send one event again.

    Args:
        tx: the transaction; the caller commits, and rings for webhooks.
        actor: who asks; the endpoint is its tenant's.
        endpoint: which.
        event: the ``webhook-id``.

    Raises:
        UnknownEventError: the endpoint was never sent such an event.
        UnderWayError: it hasn't come to its end yet, or is being sent again.
    """
    job = await read_job(tx, actor.tenant, event)
    if job is None or job.kind != SendWebhook.kind or job.subject != endpoint:
        raise UnknownEventError(str(event))
    ids = await _send_again(tx, actor, endpoint, [job])
    if not ids:
        message = f"Event {event} is on its way to the endpoint already."
        raise UnderWayError(message)
    return Replayed(ids)


async def replay_since(
    tx: AsyncSession, actor: Actor, endpoint: UUID, since: datetime, before: UUID | None = None
) -> Replayed:
    """Send the latest events again that were staged at ``since`` or later, ``MOST_AT_ONCE``.

    Those that are on their way are left alone. See ``replay_one`` for the rest.
    """
    found: list[JobView] = []
    for state in (JobState.DEAD, JobState.SUCCEEDED):
        found += await list_jobs(
            tx,
            actor.tenant,
            state=state,
            kinds=[SendWebhook.kind],
            subject=endpoint,
            since=first_id_at(since),
            before=before,
            limit=MOST_AT_ONCE + 1,
        )
    found.sort(key=lambda job: job.id, reverse=True)
    taken = found[:MOST_AT_ONCE]
    ids = await _send_again(tx, actor, endpoint, taken)
    return Replayed(ids, taken[-1].id if len(found) > MOST_AT_ONCE else None)


async def _send_again(
    tx: AsyncSession, actor: Actor, endpoint: UUID, jobs: Sequence[JobView]
) -> list[UUID]:
    """Revive what is dead; of what was delivered, stage a copy that bears its id."""
    events = {job.id: _event_of(job) for job in jobs}
    dead = [job.id for job in jobs if job.state is JobState.DEAD]
    revived = [events[job.id] for job in await retry_jobs(tx, actor, dead)]
    copies = [_copy_of(job) for job in jobs if job.state is JobState.SUCCEEDED]
    staged = await stage(tx, copies)
    ids = revived + [UUID(str(copy.unique_key)) for copy in copies if copy.id in staged]
    await record(tx, actor, "webhook.replay", [str(endpoint)], {"events": len(ids)})
    return ids


def _event_of(job: JobView) -> UUID:
    return UUID(str(job.payload.get("message_id") or job.id))


def _copy_of(job: JobView) -> Staged:
    event = _event_of(job)
    payload = SendWebhook.model_validate(job.payload).model_copy(update={"message_id": event})
    # Live under its key once at a time: two replays at the same moment send it once.
    return Staged(job.tenant, payload, unique_key=str(event), parent_id=job.id)
