"""Jobs as people see them: one, a page of them, what blocks an order; a look changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import (
    ColumnElement,
    TableClause,
    column,
    desc,
    false,
    literal,
    literal_column,
    select,
    table,
    text,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.job import JobState

_NEVER_DONE = frozenset(JobState) - {JobState.SUCCEEDED, JobState.CANCELLED}
"""States of rows in ``job``; ``job_done`` has the others."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job's row, live or finished."""

    id: UUID
    tenant: int
    kind: str
    state: JobState
    priority: int
    run_at: datetime
    attempts: int
    lost: int
    max_attempts: int
    subject: UUID | None
    parent_id: UUID | None
    unique_key: str | None
    trace_context: str | None
    payload: dict[str, JsonValue]
    result: dict[str, JsonValue] | None
    error: str | None
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    # With defaults: for some minutes Redis has copies that an older version made.
    fence: int = 0
    cancel_requested: bool = False
    """It runs, and was asked to end; one that is over isn't."""
    workflow: UUID | None = None
    waits_for: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run of a job that did not succeed; a job that was replayed counts from 1 again."""

    attempt: int
    started_at: datetime | None
    finished_at: datetime
    error: str


@dataclass(frozen=True, slots=True)
class DeadJob:
    """The job that keeps an order from going on."""

    id: UUID
    kind: str
    reason: str


_FIELDS = [field.name for field in fields(JobView)]
_LIVE = table("job", *map(column, _FIELDS), schema="goodsyard")
_FINISHED = table("job_done", *map(column, _FIELDS), schema="goodsyard")
_WHILE_LIVE: Mapping[str, ColumnElement[Any]] = {
    "cancel_requested": false(),
    "waits_for": literal(0),
}
"""Columns that only live jobs have, and what they are worth of the others."""
_COLUMNS: Mapping[TableClause, Sequence[ColumnElement[Any]]] = {
    _LIVE: [_LIVE.c[name] for name in _FIELDS],
    _FINISHED: [
        _WHILE_LIVE[name].label(name) if name in _WHILE_LIVE else _FINISHED.c[name]
        for name in _FIELDS
    ],
}
"""What a view has of each of the two."""

_ATTEMPTS = text("""
    SELECT attempt, started_at, finished_at, error FROM goodsyard.job_attempt
     WHERE job_id = :id ORDER BY finished_at, attempt
""")

_STATES = text("""
    SELECT id, state FROM goodsyard.job
     WHERE tenant = :tenant AND id = ANY(CAST(:ids AS uuid[]))
    UNION ALL
    SELECT id, state FROM goodsyard.job_done
     WHERE tenant = :tenant AND id = ANY(CAST(:ids AS uuid[]))
""")

_DEAD = text("""
    SELECT id, kind, reason FROM goodsyard.job
     WHERE tenant = :tenant AND subject = ANY(CAST(:subjects AS uuid[])) AND state = 'dead'
     ORDER BY id LIMIT 1
""")


async def read_job(tx: AsyncSession, tenant: int, job_id: UUID) -> JobView | None:
    """Return a job of the tenant, wherever its row is by now."""
    # One statement, one snapshot: a job that is just moving is in one of the two.
    statement = union_all(
        *(
            select(*_COLUMNS[heap]).where(heap.c.tenant == tenant, heap.c.id == job_id)
            for heap in (_LIVE, _FINISHED)
        )
    )
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _view(row)


async def attempts_of(tx: AsyncSession, job_id: UUID) -> list[Attempt]:
    """Return a job's runs that did not succeed, oldest first."""
    return [Attempt(*row) for row in await tx.execute(_ATTEMPTS, {"id": job_id})]


async def states_of(tx: AsyncSession, tenant: int, ids: Collection[UUID]) -> dict[UUID, JobState]:
    """Return the state of each of the jobs that is the tenant's, in one statement."""
    rows = await tx.execute(_STATES, {"tenant": tenant, "ids": list(ids)})
    return {job: JobState(state) for job, state in rows}


async def first_dead(tx: AsyncSession, tenant: int, subjects: Collection[UUID]) -> DeadJob | None:
    """Return the oldest dead job that works on one of ``subjects``, if there is one."""
    rows = await tx.execute(_DEAD, {"tenant": tenant, "subjects": list(subjects)})
    row = rows.one_or_none()
    return None if row is None else DeadJob(*row)


async def list_jobs(  # noqa: PLR0913 - a filter each
    tx: AsyncSession,
    tenant: int,
    *,
    state: JobState | None = None,
    kinds: Sequence[str] | None = None,
    subject: UUID | None = None,
    since: UUID | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[JobView]:
    """Return the tenant's jobs, newest first, live and finished ones together.

    Args:
        tx: the transaction.
        tenant: whose jobs.
        state: only jobs in this state.
        kinds: only jobs of these kinds.
        subject: only jobs that work on it.
        since: only jobs that are no older than this id, see ``first_id_at``.
        before: only jobs older than this one: the last of the page before.
        limit: the most to return.
    """
    heaps = [_LIVE] if state in _NEVER_DONE else [_FINISHED] if state else [_LIVE, _FINISHED]
    # Each branch seeks and stops by itself; a limit around the union would read all of both.
    branches = []
    for heap in heaps:
        branch = select(*_COLUMNS[heap]).where(heap.c.tenant == tenant)
        if state is not None:  # as a parameter, partial indexes would be lost
            branch = branch.where(heap.c.state == literal_column(f"'{state.value}'"))
        if kinds is not None:
            branch = branch.where(heap.c.kind.in_(kinds))
        if subject is not None:
            branch = branch.where(heap.c.subject == subject)
        if since is not None:
            branch = branch.where(heap.c.id >= since)
        if before is not None:
            branch = branch.where(heap.c.id < before)
        branches.append(select(branch.order_by(heap.c.id.desc()).limit(limit).subquery()))
    statement = union_all(*branches).order_by(desc("id")).limit(limit)
    return [_view(row) for row in await tx.execute(statement)]


def _view(row: Sequence[Any]) -> JobView:  # a row of _FIELDS; the schema has their types
    view = JobView(*row)
    return replace(view, state=JobState(view.state))
