"""``/v1/notifications``: a mail, a webhook or a text to somebody, accepted once for each key."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import (
    BaseModel,
    ConfigDict,
    EmailStr,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from commerce.accounts.keys import tenant_name
from commerce.notifications import endpoints
from commerce.notifications.channels import channel_key
from commerce.notifications.destinations import UnusableUrlError, normalise
from commerce.notifications.messages import UnusableMessageError, mailbox, render
from goodsyard.contracts import Contract
from goodsyard.job import new_id
from goodsyard.submit import Staged, stage
from producers import problems
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import FreeForm, JsonRoute
from producers.idempotency import RequiredKey, claim, replayed
from producers.order_reads import job_reference
from producers.order_shapes import JobRef
from producers.problems import ProblemError
from producers.services import Services, Use
from producers.tracing import trace_context
from tasks.contracts import SendChat, SendEmail, SendWebhook, Template

router = APIRouter(prefix="/v1/notifications", tags=["notifications"], route_class=JsonRoute)

Writer = Annotated[Principal, require_scope("notifications:write")]

_BUILT_IN = ("email", "webhook")

NOTIFICATION = "notification"
"""The event that a webhook of this call tells of; an endpoint gets it whatever it asked for."""

Body = Annotated[
    str,
    StringConstraints(
        pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$", min_length=1, max_length=20_000
    ),
]
"""A text of several lines, with nothing in it that a terminal would obey."""

_email = TypeAdapter[str](Annotated[EmailStr, Field(max_length=254)])


class NotificationIn(BaseModel):
    """What to tell whom, and how: by a template and its data, or in words of one's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,49}$")] = Field(
        description="`email`, `webhook`, or one of those that the operator named for the tenant.",
        examples=["email"],
    )
    to: Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f]{1,320}$")] | None = Field(
        default=None,
        description="An e-mail address; of webhooks, the id or the URL of a registered endpoint; "
        "elsewhere whom the channel reaches, if it asks for somebody: a phone number, say.",
        examples=["ann@example.com"],
    )
    template: Template | None = Field(default=None, description="Filled with `data`.")
    subject: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")] | None = Field(
        default=None, description="With `body`, instead of a template."
    )
    body: Body | None = Field(default=None, description="Plain text.")
    data: FreeForm = Field(default_factory=dict, description="What the template is filled with.")

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        own_words = [self.subject, self.body]
        if self.template is None and None in own_words:
            raise PydanticCustomError("no_text", "It takes a template, or a subject and a body")
        if self.template is not None and own_words != [None, None]:
            raise PydanticCustomError("two_texts", "A template brings its own subject and body")
        if self.template is None and self.data:
            raise PydanticCustomError("no_template", "The data is for a template: there is none")
        return self


class AcceptedNotification(BaseModel):
    """The job that sends it."""

    job: JobRef


@router.post("", status_code=202, response_model=AcceptedNotification)
async def notify(
    request: Request, body: NotificationIn, key: RequiredKey, principal: Writer, use: Use
) -> Response:
    """Send a notification; `job` is where to follow it.

    A mail or a webhook arrives at least once, always under the same id. A text to another channel
    is sent at most once: where nobody can tell whether it arrived, its job is dead, as `uncertain`.
    """
    tenant, job_id = principal.tenant, new_id()
    due: list[str] = []
    async with use.sessions.begin() as tx:
        holder = await claim(tx, tenant, key, {"job": str(job_id)})
        if holder.won:
            contract = await _contract(tx, use, tenant, body)
            staged = Staged(tenant, contract, id=job_id, trace_context=trace_context(request))
            await stage(tx, [staged])
            due = [contract.kind]
        reference = await job_reference(tx, tenant, UUID(str(holder.resource["job"])))
    use.doorbell.ring(due=due)
    headers = {"Location": reference["href"], **replayed(holder)}
    return JsonAnswer({"job": reference}, 202, headers)


async def _contract(tx: AsyncSession, use: Services, tenant: int, body: NotificationIn) -> Contract:
    """Return what is to be done; whatever can be wrong with it is told now, not by the job."""
    match body.channel:
        case "email":
            return _mail(body)
        case "webhook":
            return await _webhook(tx, tenant, body)
        case _:
            return await _chat(tx, use, tenant, body)


def _mail(body: NotificationIn) -> SendEmail:
    try:
        to = _email.validate_python(body.to)
        mailbox(to)
    except ValidationError as error:
        raise _wrong("/to", error.errors()[0]["msg"]) from error
    except UnusableMessageError as error:
        raise _wrong("/to", str(error)) from error
    _words(body)
    return SendEmail(
        to=to,
        template=body.template,
        message_subject=body.subject,
        body=body.body,
        data=body.data,
    )


async def _webhook(tx: AsyncSession, tenant: int, body: NotificationIn) -> SendWebhook:
    """Return the webhook to an endpoint that is registered: only such a one shares a secret."""
    endpoint = await endpoints.find(tx, tenant, _address(body.to or ""))
    if endpoint is None:
        raise _wrong("/to", "There is no webhook endpoint with such an id or URL: register it")
    if endpoint.disabled_at is not None:
        raise _wrong("/to", f"The endpoint is disabled ({endpoint.disabled_reason}): enable it")
    subject, text = _words(body)
    return SendWebhook(
        endpoint_id=endpoint.id,
        event=NOTIFICATION,
        occurred_at=datetime.now(UTC),
        data={"subject": subject, "body": text, "template": body.template, "data": body.data},
    )


def _address(to: str) -> str:
    """Return an endpoint's id or URL as it is stored."""
    with suppress(ValueError):
        return str(UUID(to))
    try:
        # Where it leads to was judged when it was registered, and is again at each call.
        return normalise(to, allow_private=True)
    except UnusableUrlError as error:
        raise _wrong("/to", str(error)) from error


async def _chat(tx: AsyncSession, use: Services, tenant: int, body: NotificationIn) -> SendChat:
    whose = await tenant_name(tx, tenant)
    channel = use.channels.find(whose, body.channel)
    if channel is None:
        there_are = ", ".join([*_BUILT_IN, *use.channels.of(whose)])
        raise _wrong("/channel", f"There is no such channel; there are {there_are}")
    if (detail := channel.why_not(body.to)) is not None:
        raise _wrong("/to", detail)
    subject, text = _words(body)
    return SendChat(
        channel=channel_key(whose, body.channel), to=body.to, message_subject=subject, body=text
    )


def _words(body: NotificationIn) -> tuple[str, str]:
    """Return subject and text."""
    if body.template is None:
        return body.subject or "", body.body or ""
    try:
        subject, text, _ = render(body.template, body.data)
    except UnusableMessageError as error:
        raise _wrong("/data", str(error)) from error
    return subject, text


def _wrong(place: str, detail: str) -> ProblemError:
    return problems.validation([{"pointer": f"#{place}", "detail": detail}])
