"""``/v1/workflows``: jobs that wait for each other, and what makes up for them, as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, TypeAlias
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from commerce.accounts.scopes import submit_scope
from goodsyard import interventions, request_keys
from goodsyard.contracts import Contract
from goodsyard.interventions import NotNowError
from goodsyard.workflow_reads import (
    MOST_STEPS,
    WorkflowState,
    list_workflows,
    read_workflow,
    steps_of,
)
from goodsyard.workflows import Step, WorkflowError, check, stage_workflow
from producers import problems, workflow_shapes
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import KIB, JsonRoute
from producers.idempotency import RequiredKey, claim, replayed
from producers.job_shapes import PUBLIC
from producers.pagination import PageQuery, page
from producers.problems import ProblemError, not_found, pointer
from producers.services import Use
from producers.tracing import trace_context
from producers.workflow_shapes import (
    AcceptedWorkflow,
    CompensationIn,
    StepIn,
    WorkflowIn,
    WorkflowOut,
    WorkflowPage,
    WorkflowReportOut,
    workflow_href,
)

_Fault: TypeAlias = tuple[tuple[str | int, ...], str]
"""A place in the body, and what is wrong there."""


class WorkflowRoute(JsonRoute):
    """A route that takes many steps in one body."""

    max_bytes: ClassVar[int] = 4 * KIB * KIB


router = APIRouter(prefix="/v1/workflows", tags=["workflows"], route_class=WorkflowRoute)

Anybody = Annotated[Principal, require_scope()]
Reader = Annotated[Principal, require_scope("jobs:read")]
Admin = Annotated[Principal, require_scope("jobs:admin")]


@router.post("", status_code=202, response_model=AcceptedWorkflow)
async def submit(
    request: Request, body: WorkflowIn, key: RequiredKey, principal: Anybody, use: Use
) -> Response:
    """Hand in a workflow of public kinds, with the scope `jobs:submit:KIND` for each of them."""
    steps = _read(body.steps, principal)
    async with use.sessions.begin() as tx:
        holder = await claim(tx, principal.tenant, key, {})
        if holder.won:
            staged = await stage_workflow(tx, principal.tenant, steps, trace_context(request))
            workflow = staged.id
            await request_keys.amend(tx, principal.tenant, key.key, {"workflow": str(workflow)})
        else:
            workflow = UUID(str(holder.resource["workflow"]))
        found = await read_workflow(tx, principal.tenant, workflow)
    # One that is gone was over so long ago that it has been forgotten.
    state = WorkflowState.SUCCEEDED if found is None else found.state
    use.doorbell.ring(due={step.contract.kind for step in steps if not step.after})
    href = workflow_href(workflow)
    return JsonAnswer(
        {"workflow": {"id": workflow, "state": state, "href": href}},
        202,
        {"Location": href, **replayed(holder)},
    )


def _read(steps: Sequence[StepIn], principal: Principal) -> list[Step]:
    """Return the steps that a request means.

    Raises:
        ProblemError: they make no workflow, a kind isn't public or the caller may not submit it,
            or a payload isn't what its contract asks for.
    """
    faults = [*_strange_kinds(steps)]
    try:
        check(steps)
    except WorkflowError as error:
        faults += [(("steps", *fault.place), fault.detail) for fault in error.faults]
    _refuse(faults)
    kinds = {job.kind for step in steps for job in (step, step.compensation) if job is not None}
    for kind in sorted(kinds):
        principal.require(submit_scope(kind))
    read = []
    for number, step in enumerate(steps):
        contract = _payload(step, ("steps", number), faults)
        compensation = None
        if step.compensation is not None:
            place = ("steps", number, "compensation")
            compensation = _payload(step.compensation, place, faults)
        if contract is not None:
            read.append(
                Step(step.name, contract, step.after, compensation, step.run_at, step.priority)
            )
    _refuse(faults)
    return read


def _strange_kinds(steps: Sequence[StepIn]) -> Iterator[_Fault]:
    for number, step in enumerate(steps):
        for job, place in ((step, ("kind",)), (step.compensation, ("compensation", "kind"))):
            if job is not None and job.kind not in PUBLIC:
                yield ("steps", number, *place), f"There is no public kind {job.kind}"


def _payload(
    job: StepIn | CompensationIn, place: tuple[str | int, ...], faults: list[_Fault]
) -> Contract | None:
    try:
        return PUBLIC[job.kind].model_validate(job.payload)
    except ValidationError as error:
        faults += [((*place, "payload", *one["loc"]), one["msg"]) for one in error.errors()]
        return None


def _refuse(faults: Sequence[_Fault]) -> None:
    if faults:
        raise problems.validation(
            [{"pointer": pointer(place), "detail": detail} for place, detail in faults]
        )


@router.get("", response_model=WorkflowPage)
async def list_page(query: Annotated[PageQuery, Query()], principal: Reader, use: Use) -> Response:
    """List workflows, newest first, without their steps."""
    async with use.sessions.begin() as tx:
        found = await list_workflows(
            tx, principal.tenant, before=query.before, limit=query.limit + 1
        )
    workflows, next_cursor = query.cut(found)
    return JsonAnswer(page([*map(workflow_shapes.workflow, workflows)], next_cursor))


@router.get("/{workflow_id:uuid}", response_model=WorkflowReportOut)
async def read(workflow_id: UUID, principal: Reader, use: Use) -> Response:
    """Read a workflow with its steps."""
    async with use.sessions.begin() as tx:
        found = await read_workflow(tx, principal.tenant, workflow_id)
        if found is None:
            raise not_found(f"workflow {workflow_id}")
        steps = await steps_of(tx, workflow_id, MOST_STEPS + 1)
    return JsonAnswer(workflow_shapes.report(found, steps))


@router.post(
    "/{workflow_id:uuid}/cancel",
    response_model=WorkflowOut,
    responses=problems.refusals(problems.WORKFLOW_STATE),
)
async def cancel(workflow_id: UUID, principal: Admin, use: Use) -> Response:
    """Call off what has not begun, and make up for what took effect, the last of it first.

    What is being carried out right now comes to its end and is made up for then.
    """
    try:
        async with use.sessions.begin() as tx:
            followed = await interventions.cancel_workflow(tx, principal.actor, workflow_id)
            found = await read_workflow(tx, principal.tenant, workflow_id)
    except NotNowError as error:
        raise ProblemError(problems.WORKFLOW_STATE, str(error)) from error
    if followed is None or found is None:
        raise not_found(f"workflow {workflow_id}")
    use.doorbell.ring(due=followed.due, changed=followed.called_off)
    return JsonAnswer(workflow_shapes.workflow(found))
