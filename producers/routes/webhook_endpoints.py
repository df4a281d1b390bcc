"""``/v1/webhook-endpoints``: where a tenant wants to be told of events."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from commerce.notifications import endpoints
from commerce.notifications.destinations import MAX_LENGTH, UnusableUrlError, look_up, normalise
from commerce.notifications.endpoints import MOST_ENDPOINTS, TooManyEndpointsError
from commerce.notifications.events import SUBSCRIPTIONS
from commerce.notifications.models import WebhookEndpoint
from commerce.notifications.signing import secret_of
from goodsyard import recall, request_keys
from goodsyard.interventions import record
from producers import problems
from producers.answers import JsonAnswer, no_content
from producers.authentication import Principal, require_scope
from producers.bodies import JsonRoute, Moment
from producers.idempotency import AcceptedKey, claim, replayed
from producers.order_shapes import Document
from producers.pagination import PageQuery, page
from producers.problems import ProblemError, not_found
from producers.services import Services, Use
from tasks.contracts import SendWebhook
from tasks.replays import (
    MOST_AT_ONCE,
    Replayed,
    UnderWayError,
    UnknownEventError,
    replay_one,
    replay_since,
)

router = APIRouter(
    prefix="/v1/webhook-endpoints", tags=["webhook endpoints"], route_class=JsonRoute
)

Writer = Annotated[Principal, require_scope("webhooks:write")]
Reader = Annotated[Principal, require_scope("webhooks:read")]

_DAY = 86_400

Subscription = Literal[SUBSCRIPTIONS]  # type: ignore[valid-type]  # a Literal of a tuple's items


class EndpointIn(BaseModel):
    """Where to tell of what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)] = Field(
        description="`https`, port 443 or 8443, of a host with public addresses.",
        examples=["https://shop.example.com/webhooks"],
    )
    events: Annotated[list[Subscription], Field(min_length=1, max_length=50)] = Field(
        description="Events by name, or all of a family.", examples=[["order.*", "job.dead"]]
    )


class RotateIn(BaseModel):
    """How a secret is changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap_seconds: Annotated[int, Field(strict=True, ge=0, le=7 * _DAY)] = Field(
        default=_DAY, description="For how long requests are signed with both secrets."
    )


class ReplayIn(BaseModel):
    """Which events are sent again: one, or those since a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: UUID | None = Field(default=None, description="The `webhook-id` of one event.")
    since: Moment | None = Field(default=None, description="All events from then on.")
    before: UUID | None = Field(
        default=None, description="With `since`: go on where an answer with this `before` ended."
    )

    @model_validator(mode="after")
    def _one_or_since(self) -> ReplayIn:
        if (self.event is None) == (self.since is None):
            raise PydanticCustomError("one_or_since", "Give either event or since")
        if self.before is not None and self.since is None:
            raise PydanticCustomError("before_alone", "before goes with since")
        return self


class EndpointOut(BaseModel):
    """An endpoint; ``secret`` is in the answers that make one, and in no other."""

    id: UUID
    href: str
    url: str
    events: list[str]
    created_at: datetime
    failing_since: datetime | None = Field(description="No call has succeeded since.")
    disabled_at: datetime | None
    disabled_reason: str | None
    previous_secret_until: datetime | None = Field(
        description="Until when the secret before the last rotation signs as well."
    )
    secret: str | None = None


class EndpointPage(BaseModel):
    """A page of endpoints, newest first."""

    data: list[EndpointOut]
    next_cursor: str | None


class ReplayOut(BaseModel):
    """Events that are sent again, and where to go on if there are more."""

    count: int
    ids: list[UUID]
    before: UUID | None


@router.post(
    "",
    status_code=201,
    response_model=EndpointOut,
    responses=problems.refusals(problems.TOO_MANY_ENDPOINTS, problems.NOT_FOUND),
)
async def register(body: EndpointIn, key: AcceptedKey, principal: Writer, use: Use) -> Response:
    """Register an endpoint. Its secret is shown this once; a replay shows all but that."""
    url = await _usable(use, body.url)
    new = WebhookEndpoint(tenant=principal.tenant, url=url, events=sorted(set(body.events)))
    try:
        async with use.sessions.begin() as tx:
            holder = await claim(tx, principal.tenant, key, {"endpoint": str(new.id)})
            if holder.won:
                await endpoints.register(tx, new)
                await record(tx, principal.actor, "webhook_endpoint.register", [str(new.id)])
            endpoint_id = UUID(str(holder.resource["endpoint"]))
            found = await endpoints.of_tenant(tx, principal.tenant).get(endpoint_id)
    except TooManyEndpointsError as error:
        detail = f"There are {MOST_ENDPOINTS} already, the most there may be. Nothing was added."
        raise ProblemError(problems.TOO_MANY_ENDPOINTS, detail) from error
    document = _document(found, endpoint_id)
    if holder.won:
        document["secret"] = secret_of(use.webhooks.secret_key, new.id, new.generation)
    return JsonAnswer(document, 201, {"Location": _href(endpoint_id), **replayed(holder)})


@router.get("", response_model=EndpointPage)
async def list_page(query: Annotated[PageQuery, Query()], principal: Reader, use: Use) -> Response:
    """List endpoints, newest first."""
    async with use.sessions.begin() as tx:
        repository = endpoints.of_tenant(tx, principal.tenant)
        found = await repository.page(before=query.before, limit=query.limit + 1)
    rows, next_cursor = query.cut(found)
    return JsonAnswer(page([_document(row, row.id) for row in rows], next_cursor))


@router.get("/{endpoint_id:uuid}", response_model=EndpointOut)
async def read(endpoint_id: UUID, principal: Reader, use: Use) -> Response:
    """Read an endpoint, and how it has answered lately."""
    async with use.sessions.begin() as tx:
        found = await endpoints.of_tenant(tx, principal.tenant).get(endpoint_id)
    return JsonAnswer(_document(found, endpoint_id))


@router.delete("/{endpoint_id:uuid}", status_code=204)
async def remove(endpoint_id: UUID, principal: Writer, use: Use) -> Response:
    """Delete an endpoint; what is still on its way there is refused."""
    async with use.sessions.begin() as tx:
        removed = await endpoints.remove(tx, principal.tenant, endpoint_id)
        if removed:
            await recall.hurry(tx, [endpoint_id], SendWebhook.kind)
            await record(tx, principal.actor, "webhook_endpoint.remove", [str(endpoint_id)])
    if not removed:
        raise _no_endpoint(endpoint_id)
    use.doorbell.ring(due=[SendWebhook.kind])
    return no_content()


@router.post("/{endpoint_id:uuid}/rotate-secret", response_model=EndpointOut)
async def rotate(
    endpoint_id: UUID, key: AcceptedKey, principal: Writer, use: Use, body: RotateIn | None = None
) -> Response:
    """Make a new secret; for a while requests are signed with both. It is shown this once."""
    overlap = timedelta(seconds=(body or RotateIn()).overlap_seconds)
    async with use.sessions.begin() as tx:
        holder = await claim(tx, principal.tenant, key, {"rotated": str(endpoint_id)})
        if holder.won and await endpoints.rotate(tx, principal.tenant, endpoint_id, overlap):
            await record(tx, principal.actor, "webhook_endpoint.rotate", [str(endpoint_id)])
        found = await endpoints.of_tenant(tx, principal.tenant).get(endpoint_id)
        document = _document(found, endpoint_id)
    if holder.won and found is not None:
        document["secret"] = secret_of(use.webhooks.secret_key, found.id, found.generation)
    return JsonAnswer(document, headers=replayed(holder))


@router.post("/{endpoint_id:uuid}/enable", response_model=EndpointOut)
async def enable(endpoint_id: UUID, key: AcceptedKey, principal: Writer, use: Use) -> Response:
    """Send to an endpoint again that was disabled or spared, beginning with what waits for it."""
    async with use.sessions.begin() as tx:
        holder = await claim(tx, principal.tenant, key, {"enabled": str(endpoint_id)})
        if holder.won and await endpoints.enable(tx, principal.tenant, endpoint_id):
            await recall.hurry(tx, [endpoint_id], SendWebhook.kind)
            await record(tx, principal.actor, "webhook_endpoint.enable", [str(endpoint_id)])
        found = await endpoints.of_tenant(tx, principal.tenant).get(endpoint_id)
        document = _document(found, endpoint_id)
    use.doorbell.ring(due=[SendWebhook.kind])
    return JsonAnswer(document, headers=replayed(holder))


@router.post(
    "/{endpoint_id:uuid}/replay",
    status_code=202,
    response_model=ReplayOut,
    description=f"Send events again that have come to their end, up to {MOST_AT_ONCE:,} at once, "
    "under the same `webhook-id`s.",
    responses=problems.refusals(problems.NOT_FOUND, problems.ENDPOINT_DISABLED, problems.JOB_STATE),
)
async def replay(
    endpoint_id: UUID, body: ReplayIn, key: AcceptedKey, principal: Writer, use: Use
) -> Response:
    """Send events again."""
    async with use.sessions.begin() as tx:
        holder = await claim(tx, principal.tenant, key, {})
        if not holder.won:
            return JsonAnswer(dict(holder.resource), 202, replayed(holder))
        endpoint = await endpoints.of_tenant(tx, principal.tenant).get(endpoint_id)
        if endpoint is None:
            raise _no_endpoint(endpoint_id)
        if endpoint.disabled_at is not None:
            raise ProblemError(problems.ENDPOINT_DISABLED)
        try:
            sent = await _send_again(tx, principal, endpoint_id, body)
        except UnknownEventError as error:
            raise not_found(f"event {body.event} of this endpoint") from error
        except UnderWayError as error:
            raise ProblemError(problems.JOB_STATE, str(error)) from error
        answer: dict[str, JsonValue] = {
            "count": len(sent.ids),
            "ids": [str(event) for event in sent.ids],
            "before": None if sent.before is None else str(sent.before),
        }
        if key is not None:
            await request_keys.amend(tx, principal.tenant, key.key, answer)
    use.doorbell.ring(due=[SendWebhook.kind])
    return JsonAnswer(answer, 202)


async def _send_again(
    tx: AsyncSession, principal: Principal, endpoint_id: UUID, body: ReplayIn
) -> Replayed:
    if body.event is not None:
        return await replay_one(tx, principal.actor, endpoint_id, body.event)
    since = body.since
    assert since is not None  # noqa: S101 - for the type checker: the body was validated
    return await replay_since(tx, principal.actor, endpoint_id, since, body.before)


async def _usable(use: Services, url: str) -> str:
    """Return a URL as it is stored; with no transaction open, since its name is looked up."""
    allow_private = use.webhooks.webhook_allow_private
    try:
        usable = normalise(url, allow_private=allow_private)
        if not allow_private:
            await look_up(usable)
    except UnusableUrlError as error:
        raise problems.validation([{"pointer": "#/url", "detail": str(error)}]) from error
    return usable


def _href(endpoint_id: UUID) -> str:
    return f"/v1/webhook-endpoints/{endpoint_id}"


def _document(endpoint: WebhookEndpoint | None, endpoint_id: UUID) -> Document:
    if endpoint is None:
        raise _no_endpoint(endpoint_id)
    return {
        "id": endpoint.id,
        "href": _href(endpoint.id),
        "url": endpoint.url,
        "events": endpoint.events,
        "created_at": endpoint.created_at,
        "failing_since": endpoint.failing_since,
        "disabled_at": endpoint.disabled_at,
        "disabled_reason": endpoint.disabled_reason,
        "previous_secret_until": endpoint.previous_until,
    }


def _no_endpoint(endpoint_id: UUID) -> ProblemError:
    return not_found(f"webhook endpoint {endpoint_id}")
