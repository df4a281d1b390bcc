"""Jobs as they are sent in and shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from goodsyard.interventions import MOST_AT_ONCE
from goodsyard.job import JobState
from goodsyard.jobs import JobView
from goodsyard.progress import Progress
from goodsyard.results import JobReport
from goodsyard.shared_runs import Unique
from goodsyard.submit import DEFAULT_PRIORITY
from goodsyard.workflows import MOST_PARENTS
from producers.bodies import FreeForm, Moment
from producers.order_shapes import Document, JobRef, job_href
from producers.pagination import PageQuery
from tasks import contracts

Kind = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.]{1,100}$")]

QUEUE_OF = {contract.kind: contract.policy.queue for contract in contracts.ALL}
"""The queue of each kind."""

PUBLIC = {contract.kind: contract for contract in contracts.ALL if contract.public}
"""The contracts that other services may submit themselves."""


def kinds_of(queue: str) -> list[str]:
    """Return the kinds that go to ``queue``."""
    return [kind for kind, its_queue in QUEUE_OF.items() if its_queue == queue]


Ended = Literal[JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED]


class JobIn(BaseModel):
    """A job to be carried out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    payload: FreeForm = Field(description="What the kind's contract asks for.")
    run_at: Moment | None = Field(default=None, description="When; at once, if not given.")
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = Field(
        default=DEFAULT_PRIORITY, description="0 is first, 9 last."
    )
    unique_key: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,255}$")] | None = Field(
        default=None, description="While a job of this kind and key is live, it is the answer."
    )
    after: Annotated[list[UUID], Field(max_length=MOST_PARENTS)] = Field(
        default_factory=list,
        description="Jobs that have to succeed first, all of public kinds; without `unique_key`.",
    )
    unique_states: Annotated[frozenset[Ended], Field(min_length=1)] | None = Field(
        default=None,
        description="So is one in these states, if it came by a request with states and period.",
    )
    unique_period: Annotated[float, Field(strict=True, gt=0, le=31_622_400)] | None = Field(
        default=None, description="Seconds from its acceptance in which that holds."
    )

    @model_validator(mode="after")
    def _unique_by_all_or_by_its_key(self) -> Self:
        both = self.unique_states is not None, self.unique_period is not None
        if any(both) and not (all(both) and self.unique_key is not None):
            raise PydanticCustomError(
                "unique", "unique_states and unique_period go together, with a unique_key"
            )
        return self

    @property
    def unique(self) -> Unique | None:
        """Which jobs that are over are the answer, too."""
        if self.unique_states is None or self.unique_period is None:
            return None
        return Unique(self.unique_states, self.unique_period)


class AttemptOut(BaseModel):
    """A run of a job that did not succeed."""

    attempt: int
    started_at: datetime | None
    finished_at: datetime
    error: str


class JobOut(BaseModel):
    """A job and how far it is."""

    id: UUID
    href: str
    kind: str
    queue: str | None
    state: JobState
    cancel_requested: bool = Field(description="It runs, and was asked to end.")
    reason: str | None = Field(
        description="Of a dead one: `attempts`, `lost`, `uncertain` or `refused`."
    )
    error: str | None = Field(description="What went wrong last.")
    priority: int
    run_at: datetime
    attempts: int = Field(description="Failures that a handler or a provider reported.")
    lost: int = Field(description="Deliveries that nobody answered for.")
    max_attempts: int
    subject: UUID | None = Field(description="The order or payment it works on.")
    parent: UUID | None = Field(description="The job that staged it.")
    unique_key: str | None
    trace_context: str | None
    workflow: UUID | None = Field(description="What it is a step of.")
    waits_for: int = Field(description="How many other jobs have to succeed first.")
    payload: dict[str, JsonValue]
    result: dict[str, JsonValue] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class ProgressOut(BaseModel):
    """What a running job last said of itself."""

    fraction: Annotated[float, Field(ge=0, le=1)] = Field(description="How much of it is done.")
    text: str
    at: datetime


class JobReportOut(JobOut):
    """A job with its runs that did not succeed, oldest first."""

    failures: list[AttemptOut]
    estimated_start: datetime | None = Field(
        description="When its kind's limit may let it start, if it waits for that: an estimate."
    )
    progress: ProgressOut | None = Field(description="While it runs, if it has said any.")


class JobPage(BaseModel):
    """Jobs, newest first."""

    data: list[JobOut]
    next_cursor: str | None


class AcceptedJob(BaseModel):
    """A job that was accepted."""

    job: JobRef


class RetryIn(BaseModel):
    """Which dead jobs are to run again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind | None = None
    queue: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,50}$")] | None = None
    reason: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,50}$")] | None = None
    dry_run: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="Only tell which they are."
    )


class RetryOut(BaseModel):
    """Which dead jobs run again, or would."""

    count: int
    ids: list[UUID]
    dry_run: bool
    more: bool = Field(description=f"There are more than {MOST_AT_ONCE}: ask again.")


class JobQuery(PageQuery):
    """Which jobs are asked for."""

    state: JobState | None = None
    kind: Kind | None = None
    queue: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,50}$")] | None = None


def selected(kind: str | None, queue: str | None) -> list[str] | None:
    """Return the kinds that a filter by kind and queue lets through; ``None`` for all."""
    if kind is None and queue is None:
        return None
    return [
        one
        for one in ([kind] if kind is not None else kinds_of(str(queue)))
        if queue is None or QUEUE_OF.get(one) == queue
    ]


def job(view: JobView) -> Document:
    """Return a job as it is now."""
    return {
        "id": view.id,
        "href": job_href(view.id),
        "kind": view.kind,
        "queue": QUEUE_OF.get(view.kind),
        "state": view.state,
        "cancel_requested": view.cancel_requested,
        "reason": view.reason,
        "error": view.error,
        "priority": view.priority,
        "run_at": view.run_at,
        "attempts": view.attempts,
        "lost": view.lost,
        "max_attempts": view.max_attempts,
        "subject": view.subject,
        "parent": view.parent_id,
        "unique_key": view.unique_key,
        "trace_context": view.trace_context,
        "workflow": view.workflow,
        "waits_for": view.waits_for,
        "payload": view.payload,
        "result": view.result,
        "created_at": view.created_at,
        "started_at": view.started_at,
        "finished_at": view.finished_at,
    }


def report(found: JobReport, said: Progress | None) -> Document:
    """Return a job with its runs that did not succeed, and what it says while it runs."""
    return job(found.job) | {
        "failures": list(found.failures),
        "estimated_start": found.estimated_start,
        "progress": None if said is None else progress(said),
    }


def progress(said: Progress) -> Document:
    """Return how far a job is."""
    return {"fraction": said.fraction, "text": said.text, "at": said.at}
