"""Workflows as people see them: one with its steps, a page of them; a look changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.job import JobState
from goodsyard.steps import CALLED_OFF

MOST_STEPS = 1_000
"""Steps that are shown of a workflow; jobs that are added by id may make it longer."""


class WorkflowState(StrEnum):
    """How far a workflow is; it follows from its jobs, and is written nowhere."""

    RUNNING = "running"
    """Steps wait or are carried out."""
    BLOCKED = "blocked"
    """A step is dead, or what undoes one: a person retries it, or cancels the workflow."""
    SUCCEEDED = "succeeded"
    """Every step took effect."""
    UNDOING = "undoing"
    """Abandoned: what was being carried out comes to its end, what took effect is made up for."""
    ABANDONED = "abandoned"
    """The same, and over."""


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """A workflow's row, and its state."""

    id: UUID
    tenant: int
    state: WorkflowState
    reason: str | None
    """Why it was abandoned: ``refused``, ``cancelled`` or ``erased``."""
    undoes: UUID | None
    undone_by: UUID | None
    """The workflow that makes up for it, if there is anything to make up for."""
    created_at: datetime
    abandoned_at: datetime | None


class StepView(NamedTuple):
    """A step: its job, whom it waits or waited for, and what it is undone by."""

    job_id: UUID
    name: str | None
    """``None`` for one that was added by its parents' ids, or undoes another."""
    kind: str
    state: JobState
    waits_for: int
    after: list[UUID]
    undone_by: UUID | None


def _told(which: str) -> str:
    """Return the statement for some workflows; they are picked before their jobs are looked at."""
    return f"""
    SELECT w.id, w.tenant,
           CASE WHEN own.blocked OR undoing.blocked THEN 'blocked'
                WHEN w.abandoned_at IS NULL AND own.going_on THEN 'running'
                WHEN w.abandoned_at IS NULL THEN 'succeeded'
                WHEN own.going_on OR undoing.going_on THEN 'undoing'
                ELSE 'abandoned' END,
           w.reason, w.undoes, u.id, w.created_at, w.abandoned_at
      FROM (SELECT * FROM goodsyard.workflow w
             WHERE w.tenant = :tenant AND {which} ORDER BY w.id DESC LIMIT :most) AS w
      LEFT JOIN goodsyard.workflow u ON u.undoes = w.id
           AND EXISTS (SELECT FROM goodsyard.step s
                        WHERE s.workflow = w.id AND s.undone_by IS NOT NULL)
     CROSS JOIN LATERAL (
           SELECT coalesce(bool_or(j.state = 'dead' AND NOT {CALLED_OFF}), false) AS blocked,
                  coalesce(bool_or(j.state <> 'dead'), false) AS going_on
             FROM goodsyard.job j WHERE j.workflow = w.id) AS own
     CROSS JOIN LATERAL (
           SELECT coalesce(bool_or(j.state = 'dead'), false) AS blocked,
                  coalesce(bool_or(j.state <> 'dead'), false) AS going_on
             FROM goodsyard.job j WHERE j.workflow = u.id) AS undoing
     ORDER BY w.id DESC
"""  # noqa: S608 - no value gets in here, only SQL of our own


_READ = text(_told("w.id = :id"))
_LIST = text(_told("(CAST(:before AS uuid) IS NULL OR w.id < :before)"))

_STEPS = text("""
    SELECT j.id, s.name, j.kind, j.state, j.waits_for,
           ARRAY(SELECT d.parent FROM goodsyard.dependency d
                  WHERE d.child = j.id ORDER BY d.parent),
           s.undone_by
      FROM (SELECT id, kind, state, waits_for FROM goodsyard.job WHERE workflow = :id
            UNION ALL
            SELECT id, kind, state, 0 FROM goodsyard.job_done WHERE workflow = :id
             ORDER BY id LIMIT :most) AS j
      LEFT JOIN goodsyard.step s ON s.job_id = j.id
     ORDER BY j.id
""")


async def read_workflow(tx: AsyncSession, tenant: int, workflow: UUID) -> WorkflowView | None:
    """Return a workflow of the tenant."""
    row = (await tx.execute(_READ, {"tenant": tenant, "id": workflow, "most": 1})).one_or_none()
    return None if row is None else _view(row)


async def steps_of(tx: AsyncSession, workflow: UUID, most: int = MOST_STEPS) -> list[StepView]:
    """Return the first ``most`` steps of a workflow, in the order they were staged in.

    A step is missing if retention has dropped it.
    """
    rows = await tx.execute(_STEPS, {"id": workflow, "most": most})
    return [StepView(row[0], row[1], row[2], JobState(row[3]), *row[4:]) for row in rows]


async def list_workflows(
    tx: AsyncSession, tenant: int, *, before: UUID | None = None, limit: int = 50
) -> list[WorkflowView]:
    """Return the tenant's workflows, newest first, older than ``before``."""
    parameters = {"tenant": tenant, "before": before, "most": limit}
    return [_view(row) for row in await tx.execute(_LIST, parameters)]


def _view(row: Sequence[Any]) -> WorkflowView:  # a row of _WORKFLOW
    view = WorkflowView(*row)
    return replace(view, state=WorkflowState(view.state))
