"""``POST /v1/jobs/bulk``: up to 10,000 jobs with one commit, each accepted or refused by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from starlette.responses import Response

from commerce.accounts.scopes import submit_scope
from goodsyard import request_keys
from goodsyard.job import JobState, id_in_batch, new_id
from goodsyard.jobs import states_of
from goodsyard.submit import Staged, stage_many
from producers import problems
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import KIB, BulkRoute, may_be_unstorable, one_by_one, refuse_unstorable
from producers.failures import invalid_body
from producers.idempotency import RequestKey, RequiredKey, claim, replayed
from producers.job_shapes import PUBLIC, JobIn
from producers.order_shapes import Document, JobRef, job_ref
from producers.problems import Problem, ProblemError, not_found
from producers.services import Services, Use
from producers.tracing import trace_context

MAX_BULK = 10_000
PATH = "/v1/jobs/bulk"

_AT_A_TIME = 250
"""Jobs that are read before other requests get their turn: some 5 ms."""


class JobsRoute(BulkRoute):
    """A route that takes 10,000 jobs in one body."""

    max_bytes: ClassVar[int] = 16 * KIB * KIB


router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JobsRoute)

Anybody = Annotated[Principal, require_scope()]

_job = TypeAdapter(JobIn)


class BulkJobsIn(BaseModel):
    """Many jobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Looked at one by one, so that a bad one is that job's problem and not the request's.
    jobs: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_BULK),
        one_by_one(_job.json_schema(), MAX_BULK),
    ]


class BulkJobResult(BaseModel):
    """What became of one job of a bulk: the job, or a problem."""

    status: int
    job: JobRef | None = None
    problem: Problem | None = None


class BulkJobsOut(BaseModel):
    """What became of the jobs of a bulk, in their order."""

    results: list[BulkJobResult]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is kept of a bulk under its key: the ids of its jobs follow from its own.

    Args:
        id: the batch's.
        refused: the places of jobs that weren't accepted.
        twins: of places whose unique key had a live job, that job.
    """

    id: UUID
    refused: Sequence[int]
    twins: Mapping[int, UUID]

    def ids(self, count: int) -> dict[int, UUID]:
        """Return the id of each job that was accepted, by its place."""
        places = set(range(count)).difference(self.refused)
        return {place: self.twins.get(place) or id_in_batch(self.id, place) for place in places}

    def resource(self) -> dict[str, JsonValue]:
        """Return it as JSON."""
        return {
            "batch": str(self.id),
            "refused": list(self.refused),
            "twins": {str(place): str(twin) for place, twin in self.twins.items()},
        }

    @classmethod
    def of(cls, resource: Mapping[str, Any]) -> _Batch:  # JSON of ours
        """Return what ``resource`` made JSON of."""
        twins = {int(place): UUID(twin) for place, twin in resource["twins"].items()}
        return cls(UUID(resource["batch"]), resource["refused"], twins)


@router.post("/bulk", response_model=BulkJobsOut, response_model_exclude_unset=True)
async def submit_many(
    request: Request, body: BulkJobsIn, key: RequiredKey, principal: Anybody, use: Use
) -> Response:
    """Hand up to 10,000 jobs in, with one commit. Each is accepted or refused by itself.

    The key is the whole call's: a repeat is told of the same jobs, as they are by then.
    """
    reader = _Reader(principal, new_id(), trace_context(request))
    wary = may_be_unstorable(await request.body())
    read = [verdict async for verdict in reader.read(body.jobs, wary=wary)]
    batch, headers = await _accept(use, principal.tenant, key, reader.batch, read)
    use.doorbell.ring(due={job.contract.kind for job in read if isinstance(job, Staged)})
    ids = batch.ids(len(read))
    async with use.sessions.begin() as tx:
        states = await states_of(tx, principal.tenant, list(ids.values()))
    results = [
        # A job that is gone was finished so long ago that its partition was dropped.
        {"status": 202, "job": job_ref(job, states.get(job, JobState.SUCCEEDED))}
        if (job := ids.get(place))
        else _refusal(verdict, place)
        for place, verdict in enumerate(read)
    ]
    return JsonAnswer({"results": results}, headers=headers)


async def _accept(
    use: Services,
    tenant: int,
    key: RequestKey,
    batch_id: UUID,
    read: Sequence[Staged | ProblemError],
) -> tuple[_Batch, Mapping[str, str]]:
    """Stage what can be, all in one commit, unless an equal request did so before."""
    places = {job.id: place for place, job in enumerate(read) if isinstance(job, Staged)}
    refused = [place for place, verdict in enumerate(read) if isinstance(verdict, ProblemError)]
    batch = _Batch(batch_id, refused, {})
    async with use.sessions.begin() as tx:
        holder = await claim(tx, tenant, key, batch.resource())
        if not holder.won:
            return _Batch.of(holder.resource), replayed(holder)
        twins = await stage_many(tx, [job for job in read if isinstance(job, Staged)])
        if twins:
            batch = _Batch(batch_id, refused, {places[job]: twin for job, twin in twins.items()})
            await request_keys.amend(tx, tenant, key.key, batch.resource())
    return batch, {}


class _Reader:
    """Reads jobs for one caller."""

    def __init__(self, principal: Principal, batch: UUID, trace: str | None) -> None:
        self._principal = principal
        self.batch = batch
        self._trace = trace

    async def read(
        self, items: Sequence[Any], *, wary: bool
    ) -> AsyncIterator[Staged | ProblemError]:
        """Yield each as a job, or what is wrong with it; other requests get turns in between."""
        for place, item in enumerate(items):
            if place % _AT_A_TIME == _AT_A_TIME - 1:
                await asyncio.sleep(0)
            try:
                if wary:
                    refuse_unstorable(item)
                yield self._staged(item, place)
            except ProblemError as problem:
                yield problem

    def _staged(self, item: Any, place: int) -> Staged:  # noqa: ANN401 - whatever was sent
        try:
            job = _job.validate_python(item)
        except ValidationError as error:
            raise invalid_body(error) from error
        contract = PUBLIC.get(job.kind)
        if contract is None:
            raise not_found(f"public kind {job.kind}; there are {', '.join(sorted(PUBLIC))}")
        self._principal.require(submit_scope(job.kind))
        for name, is_asked_for, why in (
            ("kind", contract.policy.cache, "Jobs of this kind share their runs"),
            ("unique_states", job.unique, "In a bulk a unique_key is its live job's alone"),
            ("after", job.after, "In a bulk no job waits for another"),
        ):
            if is_asked_for:
                detail = f"{why}: hand it in by itself"
                raise problems.validation([{"pointer": f"#/{name}", "detail": detail}])
        try:
            payload = contract.model_validate(job.payload)
        except ValidationError as error:
            raise invalid_body(error, within=("payload",)) from error
        return Staged(
            self._principal.tenant,
            payload,
            run_at=job.run_at,
            priority=job.priority,
            unique_key=job.unique_key,
            trace_context=self._trace,
            id=id_in_batch(self.batch, place),
        )


def _refusal(verdict: Staged | ProblemError, place: int) -> Document:
    if isinstance(verdict, Staged):  # of a repeat: what it lacked then, it has now
        verdict = ProblemError(
            problems.MISSING_SCOPE,
            "It was refused when this request first came; send it again under another key.",
        )
    if verdict.errors:
        errors = [{**e, "pointer": f"#/jobs/{place}{e['pointer'][1:]}"} for e in verdict.errors]
        verdict = problems.validation(errors)
    return {"status": verdict.kind.status, "problem": verdict.document(PATH)}
