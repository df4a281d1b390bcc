"""``/v1/jobs``: what is being done, what went wrong, and another try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from pydantic import JsonValue, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response, StreamingResponse

from commerce.accounts.scopes import submit_scope
from goodsyard import interventions, request_keys
from goodsyard.contracts import Contract
from goodsyard.interventions import MOST_AT_ONCE, NotNowError, Revived
from goodsyard.job import TERMINAL, JobState
from goodsyard.jobs import JobView, list_jobs, read_job, states_of
from goodsyard.shared_runs import Found, Shared, Unique, stage_cached, stage_once
from goodsyard.submit import Staged, stage_unique
from producers import job_shapes, job_stream, problems
from producers.answers import JsonAnswer, no_content
from producers.authentication import Principal, require_scope
from producers.bodies import JsonRoute
from producers.failures import invalid_body
from producers.idempotency import (
    REPLAYED,
    AcceptedKey,
    RequestKey,
    RequiredKey,
    claim,
    replayed,
)
from producers.job_acceptance import stage_under_key
from producers.job_shapes import (
    PUBLIC,
    AcceptedJob,
    JobIn,
    JobOut,
    JobPage,
    JobQuery,
    JobReportOut,
    RetryIn,
    RetryOut,
)
from producers.job_stream import Seen
from producers.order_shapes import Document, job_href, job_ref
from producers.pagination import page
from producers.problems import ProblemError, not_found
from producers.services import Services, Use
from producers.succession import stage_behind
from producers.tracing import trace_context

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)

Anybody = Annotated[Principal, require_scope()]
Reader = Annotated[Principal, require_scope("jobs:read")]
Admin = Annotated[Principal, require_scope("jobs:admin")]
Wait = Annotated[float, Query(ge=0, le=30, description="Seconds to wait for the job's end.")]


@router.post(
    "",
    status_code=202,
    response_model=AcceptedJob,
    responses=problems.refusals(problems.NOT_FOUND),
)
async def submit(
    request: Request, body: JobIn, key: RequiredKey, principal: Anybody, use: Use
) -> Response:
    """Hand in a job of a public kind, with the scope `jobs:submit:KIND`."""
    contract = PUBLIC.get(body.kind)
    if contract is None:
        raise not_found(f"public kind {body.kind}; there are {', '.join(sorted(PUBLIC))}")
    principal.require(submit_scope(body.kind))
    staged = Staged(
        principal.tenant,
        _payload(contract, body),
        run_at=body.run_at,
        priority=body.priority,
        unique_key=body.unique_key,
        trace_context=trace_context(request),
    )
    if body.after:
        # A run of its own: what others share has none to wait for.
        job, state, repeated = await stage_behind(use, key, staged, _parents(body))
        use.doorbell.ring(due=[body.kind])
        return _accepted(job, state, REPLAYED if repeated else {})
    alone = body.unique_key is None and not _shares(staged)
    if alone and await stage_under_key(use.accepting, use.doorbell, use.lane, key, staged):
        return _accepted(staged.id, JobState.WAITING, {})
    answer = await _shared_or_staged(use, principal.tenant, key, staged, body.unique)
    use.doorbell.ring(due=[body.kind])
    return answer


def _accepted(job: UUID, state: JobState, headers: Mapping[str, str]) -> Response:
    return JsonAnswer({"job": job_ref(job, state)}, 202, {"Location": job_href(job), **headers})


async def _shared_or_staged(
    use: Services, tenant: int, key: RequestKey, staged: Staged, unique: Unique | None
) -> Response:
    """Answer with the job that stands for the request already, by one of its keys, or stage it."""
    headers: Mapping[str, str] = {}
    async with use.sessions.begin() as tx:
        holder = await claim(tx, tenant, key, {"job": str(staged.id)})
        if holder.won:
            shared = await _stage(tx, staged, unique)
            job = shared.job
            if job != staged.id:
                await request_keys.amend(tx, tenant, key.key, {"job": str(job)})
            if _shares(staged):
                headers = {"Cache-Status": _cache_status(shared)}
        else:
            job, headers = UUID(str(holder.resource["job"])), REPLAYED
        state = (await states_of(tx, tenant, [job])).get(job, JobState.SUCCEEDED)
    return _accepted(job, state, headers)


def _shares(staged: Staged) -> bool:
    """Whether equal requests share its run: not one for a later time, or with a key of its own."""
    has_cache = staged.contract.policy.cache is not None
    return has_cache and staged.run_at is None and staged.unique_key is None


async def _stage(tx: AsyncSession, staged: Staged, unique: Unique | None) -> Shared:
    if _shares(staged):
        return await stage_cached(tx, staged)
    if unique is not None:
        return await stage_once(tx, staged, unique)
    return Shared(await stage_unique(tx, staged), Found.MISS)


def _cache_status(shared: Shared) -> str:
    """Return what RFC 9211 has for how a cache handled a request."""
    match shared.found:
        case Found.MISS:
            return "goodsyard; fwd=miss; stored"
        case Found.UNDER_WAY:
            return "goodsyard; fwd=miss; collapsed"
        case Found.HIT | Found.STALE:
            return f"goodsyard; hit; ttl={math.floor(shared.fresh_for or 0)}"


def _parents(body: JobIn) -> list[UUID]:
    if body.unique_key is not None:
        detail = "A job that waits for others is a job of its own: it takes no unique_key"
        raise problems.validation([{"pointer": "#/unique_key", "detail": detail}])
    return list(dict.fromkeys(body.after))


def _payload(contract: type[Contract], body: JobIn) -> Contract:
    try:
        return contract.model_validate(body.payload)
    except ValidationError as error:
        raise invalid_body(error, within=("payload",)) from error


@router.get("", response_model=JobPage)
async def list_page(query: Annotated[JobQuery, Query()], principal: Reader, use: Use) -> Response:
    """List jobs, newest first, live and finished ones."""
    async with use.sessions.begin() as tx:
        found = await list_jobs(
            tx,
            principal.tenant,
            state=query.state,
            kinds=job_shapes.selected(query.kind, query.queue),
            before=query.before,
            limit=query.limit + 1,
        )
    jobs, next_cursor = query.cut(found)
    return JsonAnswer(page([job_shapes.job(job) for job in jobs], next_cursor))


@router.post("/retry", status_code=202, response_model=RetryOut)
async def retry_many(body: RetryIn, key: AcceptedKey, principal: Admin, use: Use) -> Response:
    """Let dead jobs run again, up to 1,000 at once; with `dry_run`, only tell which."""
    kinds = job_shapes.selected(body.kind, body.queue)
    revived: list[Revived] = []
    async with use.sessions.begin() as tx:
        holder = await claim(tx, principal.tenant, key, {})
        if not holder.won:
            return JsonAnswer(dict(holder.resource), 202, replayed(holder))
        found = await interventions.find_dead(
            tx, principal.tenant, kinds=kinds, reason=body.reason, most=MOST_AT_ONCE + 1
        )
        ids = found[:MOST_AT_ONCE]
        if not body.dry_run:
            revived = await interventions.retry_jobs(tx, principal.actor, ids)
            ids = [job.id for job in revived]
        answer: dict[str, JsonValue] = {
            "count": len(ids),
            "ids": [str(job) for job in ids],
            "dry_run": body.dry_run,
            "more": len(found) > MOST_AT_ONCE,
        }
        if key is not None:
            await request_keys.amend(tx, principal.tenant, key.key, answer)
    use.doorbell.ring(due={job.kind for job in revived})
    return JsonAnswer(answer, 202)


@router.get("/{job_id:uuid}", response_model=JobReportOut)
async def read(
    request: Request, job_id: UUID, principal: Reader, use: Use, wait: Wait = 0
) -> Response:
    """Read a job; with `wait`, once it has ended, or time is up."""
    with use.news.watch(job_id) as watch:
        document = await use.news.last_look(
            request, watch, lambda: _look(use, principal.tenant, job_id), wait
        )
    if document is None:
        raise not_found(f"job {job_id}")
    return JsonAnswer(document)


async def _look(use: Services, tenant: int, job_id: UUID) -> tuple[Document | None, bool]:
    seen = await _see(use, tenant, job_id)
    return (None, True) if seen is None else (seen.document, seen.job.state in TERMINAL)


async def _see(use: Services, tenant: int, job_id: UUID) -> Seen | None:
    found = await use.results.read(tenant, job_id)
    if found is None:
        return None
    is_running = found.job.state is JobState.RUNNING
    progress = await use.progress.read(job_id, found.job.fence) if is_running else None
    return Seen(found.job, job_shapes.report(found, progress))


@router.get(
    "/{job_id:uuid}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "`event: state` with the job, at once and whenever its state changed;"
            " `event: progress` with what it says while it runs.",
        },
        204: {"description": "Its end was told before (by `Last-Event-ID`): ask no more."},
    },
)
async def follow(
    job_id: UUID,
    principal: Reader,
    use: Use,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=64)] = None,
) -> Response:
    """Follow a job as server-sent events, up to its end."""
    document, over = await _look(use, principal.tenant, job_id)
    if document is None:
        raise not_found(f"job {job_id}")
    if over and last_event_id == document["state"]:
        return no_content()  # to an EventSource it means: don't reconnect
    events = job_stream.events(use.news, job_id, lambda: _see(use, principal.tenant, job_id))
    return StreamingResponse(events, media_type="text/event-stream")


@router.post(
    "/{job_id:uuid}/cancel",
    response_model=JobOut,
    responses=problems.refusals(problems.JOB_STATE),
)
async def cancel(job_id: UUID, principal: Admin, use: Use) -> Response:
    """Call a job of a public kind off: one that waits at once, one that runs is asked to end.

    It ends where its work can stop without harm, or succeeds: follow it to see which.
    """
    try:
        async with use.sessions.begin() as tx:
            job = await interventions.cancel_job(tx, principal.actor, job_id, contracts=PUBLIC)
    except NotNowError as error:
        raise ProblemError(problems.JOB_STATE, str(error)) from error
    return JsonAnswer(_told(use, job_id, job))


@router.post(
    "/{job_id:uuid}/retry",
    status_code=202,
    response_model=JobOut,
    responses=problems.refusals(problems.JOB_STATE),
)
async def retry(job_id: UUID, key: AcceptedKey, principal: Admin, use: Use) -> Response:
    """Let a dead job run again from the start, under the same id."""
    try:
        async with use.sessions.begin() as tx:
            holder = await claim(tx, principal.tenant, key, {"job": str(job_id)})
            if holder.won:
                job = await interventions.retry_job(tx, principal.actor, job_id)
            else:
                job = await read_job(tx, principal.tenant, job_id)
    except NotNowError as error:
        raise ProblemError(problems.JOB_STATE, str(error)) from error
    return JsonAnswer(_told(use, job_id, job), 202, replayed(holder))


def _told(use: Services, job_id: UUID, job: JobView | None) -> Document:
    """Ring for a job that was changed by hand, and return it."""
    if job is None:
        raise not_found(f"job {job_id}")
    due = [job.kind] if job.state is JobState.WAITING else []
    changed = [one for one in (job.id, job.subject) if one is not None]
    use.doorbell.ring(due=due, changed=changed)
    return job_shapes.job(job)
