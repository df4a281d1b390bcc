"""``/v1/payments``: charge a card without an order, follow any charge, give all or a part back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from commerce.payments.models import Payment
from commerce.payments.rows import may_buy
from commerce.repository import SqlRepository
from goodsyard.submit import Staged, stage
from producers import problems
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import JsonRoute
from producers.idempotency import RequiredKey, claim, claim_job, replayed
from producers.order_reads import job_reference
from producers.order_shapes import Document
from producers.ownership import OwnPayment, require_own_order
from producers.payment_reads import look_at_payment, payments_of_order, read_payment
from producers.payment_shapes import AcceptedPayment, PaymentIn, PaymentList, PaymentOut, RefundIn
from producers.problems import ProblemError, not_found
from producers.services import Use
from producers.tracing import trace_context
from tasks.contracts import ChargePayment, RefundPayment
from tasks.refunds import (
    PaymentNotFoundError,
    PaymentStateError,
    RefundTooLargeError,
    refund_payment,
)

router = APIRouter(prefix="/v1/payments", tags=["payments"], route_class=JsonRoute)

Writer = Annotated[Principal, require_scope("payments:write")]
Reader = Annotated[Principal, require_scope("payments:read")]
Wait = Annotated[
    float,
    Query(ge=0, le=30, description="Seconds to wait while the payment is pending and not blocked."),
]


@router.post("", status_code=202, response_model=AcceptedPayment)
async def charge(
    request: Request, body: PaymentIn, key: RequiredKey, principal: Writer, use: Use
) -> Response:
    """Charge a card, off-session. It happens in the background; `Location` is where to follow it.

    A card that wants its holder ends `failed`, with the reason `authentication_required`.
    """
    if not principal.owns(body.user_id):
        raise problems.unknown_user(body.user_id)
    tenant = principal.tenant
    payment = Payment(
        tenant=tenant,
        user_id=body.user_id,
        amount=body.amount,
        currency=body.currency,
        payment_method=body.payment_method,
        description=body.description,
    )
    staged = Staged(tenant, _charge_of(payment), trace_context=trace_context(request))
    resource = {"payment": str(payment.id), "job": str(staged.id)}
    async with use.sessions.begin() as tx:
        holder = await claim(tx, tenant, key, resource)
        if holder.won:
            await _create(tx, payment, staged)
        answer = await _accepted(
            tx, tenant, UUID(str(holder.resource["payment"])), UUID(str(holder.resource["job"]))
        )
    use.doorbell.ring(due=[ChargePayment.kind])
    return JsonAnswer(answer, 202, {"Location": answer["payment"]["href"], **replayed(holder)})


async def _create(tx: AsyncSession, payment: Payment, staged: Staged) -> None:
    if not await may_buy(tx, payment.tenant, payment.user_id):
        raise problems.unknown_user(payment.user_id)
    await SqlRepository(tx, Payment, payment.tenant, Payment.id).add(payment)
    await stage(tx, [staged])


def _charge_of(payment: Payment) -> ChargePayment:
    return ChargePayment(
        payment_id=payment.id,
        order_id=None,
        amount=payment.amount,
        currency=payment.currency,
        payment_method=payment.payment_method,
    )


@router.get("", response_model=PaymentList)
async def list_payments(
    order_id: Annotated[UUID, Query(description="Whose payments.")], principal: Reader, use: Use
) -> Response:
    """List the payments of an order, newest first."""
    async with use.sessions.begin() as tx:
        if principal.owner is not None:
            await require_own_order(tx, principal, order_id)
        return JsonAnswer(await payments_of_order(tx, principal.tenant, order_id))


@router.get("/{payment_id:uuid}", response_model=PaymentOut)
async def read(
    request: Request, payment_id: OwnPayment, principal: Reader, use: Use, wait: Wait = 0
) -> Response:
    """Read a payment; with `wait`, once it isn't pending or is blocked, or time is up."""
    with use.news.watch(payment_id) as watch:
        document = await use.news.last_look(
            request,
            watch,
            lambda: look_at_payment(use.sessions, principal.tenant, payment_id),
            wait,
        )
    return JsonAnswer(document)


@router.post(
    "/{payment_id:uuid}/refund",
    status_code=202,
    response_model=AcceptedPayment,
    responses=problems.refusals(problems.PAYMENT_STATE),
)
async def refund(
    payment_id: OwnPayment,
    key: RequiredKey,
    principal: Writer,
    use: Use,
    body: RefundIn | None = None,
) -> Response:
    """Give all or a part of a payment back, an order's too; `job` is where to follow it."""
    tenant = principal.tenant
    amount = None if body is None else body.amount
    async with use.sessions.begin() as tx:
        with _refusals(payment_id):
            holder, job_id = await claim_job(
                tx,
                tenant,
                key,
                {"payment": str(payment_id)},
                lambda: refund_payment(tx, tenant, payment_id, amount),
            )
        answer = await _accepted(tx, tenant, payment_id, job_id)
    use.doorbell.ring(due=[RefundPayment.kind])
    return JsonAnswer(answer, 202, {"Location": answer["payment"]["href"], **replayed(holder)})


async def _accepted(
    tx: AsyncSession, tenant: int, payment_id: UUID, job_id: UUID
) -> dict[str, Document]:
    return {
        "payment": await read_payment(tx, tenant, payment_id),
        "job": await job_reference(tx, tenant, job_id),
    }


@contextmanager
def _refusals(payment_id: UUID) -> Iterator[None]:
    """Tell the business's refusals as problems."""
    try:
        yield
    except PaymentNotFoundError as error:
        raise not_found(f"payment {payment_id}") from error
    except (PaymentStateError, RefundTooLargeError) as error:
        detail = str(error)
        raise ProblemError(problems.PAYMENT_STATE, f"{detail[0].upper()}{detail[1:]}.") from error
