"""``/v1/gateway/events``: the gateway rings, and what happened is asked of the gateway itself.

Nobody shows an API key here: the signature over the raw body says who sends it. Who fails at that
is counted by address, like those who guess keys.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel
from starlette.responses import Response

from commerce.payments.events import BadSignatureError, Event, read_event
from commerce.payments.inbox import payment_about, take_in
from goodsyard.database import Sessions
from goodsyard.submit import Staged, stage
from producers import problems
from producers.answers import JsonAnswer
from producers.bodies import KIB, read_body, refuse_encodings
from producers.gate import GATEWAY_EVENTS, address_of, refuse_excess
from producers.problems import ProblemError
from producers.services import Use
from tasks.contracts import RefreshPayment

MAX_BYTES = 256 * KIB
"""A PaymentIntent with all that Stripe may put into it has some tens."""

router = APIRouter(tags=["gateway"])


class Received(BaseModel):
    """That is all: what was done about it is nothing to the gateway."""

    received: bool = True


@router.post(
    GATEWAY_EVENTS,
    response_model=Received,
    responses=problems.refusals(
        problems.BAD_SIGNATURE,
        problems.BODY_TOO_SLOW,
        problems.BODY_TOO_LARGE,
        problems.UNSUPPORTED_MEDIA_TYPE,
    ),
)
async def take_event(
    request: Request,
    use: Use,
    signature: Annotated[str, Header(alias="Stripe-Signature")] = "",
) -> Response:
    """Take in a signed event of the gateway's; doubles and unknown kinds change nothing."""
    refuse_encodings(request)
    raw = await read_body(request, MAX_BYTES)
    try:
        event = read_event(raw, signature, use.events.webhook_secrets)
    except BadSignatureError as error:
        allowance = await use.failures_rate.hit(address_of(request.scope))
        request.scope["state"]["allowance"] = allowance
        refuse_excess(allowance)
        detail = f"Nothing was taken in: {error}."
        raise ProblemError(problems.BAD_SIGNATURE, detail) from error
    if event is not None and await _ask_about(event, use.sessions):
        use.doorbell.ring(due=[RefreshPayment.kind])
    return JsonAnswer({"received": True})


async def _ask_about(event: Event, sessions: Sessions) -> bool:
    """Have the gateway asked, if it may know what our books don't; return whether it is."""
    about = await payment_about(sessions, event)
    if about is None or not event.is_news(about.state, is_charging=about.is_charging):
        return False
    contract = RefreshPayment(payment_id=about.payment_id, gateway_id=str(event.charge))
    async with sessions.begin() as tx:
        is_first = await take_in(tx, event)
        if is_first:
            await stage(tx, [Staged(about.tenant, contract)])
    return is_first
