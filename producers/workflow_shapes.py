"""Workflows as they are sent in and shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from goodsyard.submit import DEFAULT_PRIORITY
from goodsyard.workflow_reads import MOST_STEPS, StepView, WorkflowState, WorkflowView
from goodsyard.workflows import MOST_PARENTS
from producers.bodies import FreeForm, Moment
from producers.job_shapes import Kind
from producers.order_shapes import Document, JobRef, job_ref

MOST_STEPS_IN = 1_000
"""Steps one request takes: some 100 ms of inserts."""

StepName = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,100}$")]


class CompensationIn(BaseModel):
    """What makes up for a step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    payload: FreeForm = Field(description="What the kind's contract asks for.")


class StepIn(BaseModel):
    """A job of a workflow."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: StepName = Field(description="What other steps call it.")
    kind: Kind
    payload: FreeForm = Field(description="What the kind's contract asks for.")
    after: Annotated[list[StepName], Field(max_length=MOST_PARENTS)] = Field(
        default_factory=list, description="The names of the steps that have to succeed first."
    )
    run_at: Moment | None = Field(default=None, description="Not before; at once, if not given.")
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = Field(
        default=DEFAULT_PRIORITY, description="0 is first, 9 last."
    )
    compensation: CompensationIn | None = Field(
        default=None,
        description="Is run if the step has taken effect and the workflow is abandoned then.",
    )


class WorkflowIn(BaseModel):
    """Steps to be carried out, each once those have succeeded that it names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[list[StepIn], Field(min_length=1, max_length=MOST_STEPS_IN)]


class WorkflowRef(BaseModel):
    """A workflow as other resources point to it."""

    id: UUID
    state: WorkflowState
    href: str


class AcceptedWorkflow(BaseModel):
    """A workflow that was accepted."""

    workflow: WorkflowRef


class WorkflowOut(BaseModel):
    """A workflow and how far it is."""

    id: UUID
    href: str
    state: WorkflowState = Field(
        description="`blocked`: a step is dead; retry its job, or cancel the workflow. `undoing`: "
        "abandoned, and what took effect is being made up for; `abandoned`: the same, and over."
    )
    reason: str | None = Field(
        description="Of an abandoned one: `refused`, `cancelled` or `erased`."
    )
    undoes: UUID | None = Field(description="The abandoned workflow that this one makes up for.")
    undone_by: UUID | None = Field(description="The workflow that makes up for this one.")
    created_at: datetime
    abandoned_at: datetime | None


class StepOut(BaseModel):
    """A step and how far it is."""

    name: str | None = Field(description="Of a job that was added by `after`, there is none.")
    kind: str
    job: JobRef
    after: list[UUID] = Field(description="The jobs that have to succeed first.")
    waits_for: int = Field(description="How many of them have not succeeded yet.")
    undone_by: UUID | None = Field(description="The job that makes up for it.")


class WorkflowReportOut(WorkflowOut):
    """A workflow with its steps."""

    steps: list[StepOut]
    more: bool = Field(description=f"There are more than {MOST_STEPS} steps.")


class WorkflowPage(BaseModel):
    """Workflows, newest first."""

    data: list[WorkflowOut]
    next_cursor: str | None


def workflow_href(workflow: UUID) -> str:
    """Return the path of a workflow."""
    return f"/v1/workflows/{workflow}"


def workflow(view: WorkflowView) -> Document:
    """Return a workflow as it is now."""
    return {
        "id": view.id,
        "href": workflow_href(view.id),
        "state": view.state,
        "reason": view.reason,
        "undoes": view.undoes,
        "undone_by": view.undone_by,
        "created_at": view.created_at,
        "abandoned_at": view.abandoned_at,
    }


def report(view: WorkflowView, steps: Sequence[StepView]) -> Document:
    """Return a workflow with its steps.

    Args:
        view: the workflow.
        steps: one more than are shown, if there are more.
    """
    return workflow(view) | {
        "steps": list(_steps(steps[:MOST_STEPS])),
        "more": len(steps) > MOST_STEPS,
    }


def _steps(steps: Iterable[StepView]) -> Iterable[Document]:
    for step in steps:
        yield {
            "name": step.name,
            "kind": step.kind,
            "job": job_ref(step.job_id, step.state),
            "after": step.after,
            "waits_for": step.waits_for,
            "undone_by": step.undone_by,
        }
