"""``/v1/orders``: hand orders in, one or a thousand at a time, follow them, call them off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from producers import problems
from producers.acceptance import Wish
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import BulkRoute, JsonRoute, may_be_unstorable, refuse_unstorable
from producers.failures import invalid_body
from producers.idempotency import (
    REPLAYED,
    AcceptedKey,
    RequestKey,
    RequiredKey,
    claim,
    claim_job,
    parse_key,
    replayed,
)
from producers.order_reads import (
    OrderQuery,
    job_reference,
    look_at_order,
    page_of_orders,
    read_orders,
    read_whole_order,
)
from producers.order_shapes import (
    AcceptedOrder,
    BulkIn,
    BulkOrderIn,
    BulkOut,
    ChangedOrder,
    Document,
    OrderIn,
    OrderOut,
    OrderPage,
)
from producers.ownership import OwnOrder
from producers.payment_shapes import RefundIn
from producers.problems import ProblemError, not_found
from producers.services import Use
from producers.submission import PATH, Accepted, Verdict
from producers.tracing import trace_context
from tasks import cancellation
from tasks.contracts import RefundPayment

router = APIRouter(prefix="/v1/orders", tags=["orders"], route_class=JsonRoute)
bulk_router = APIRouter(prefix="/v1/orders", tags=["orders"], route_class=BulkRoute)

Writer = Annotated[Principal, require_scope("orders:write")]
Reader = Annotated[Principal, require_scope("orders:read")]
Wait = Annotated[
    float,
    Query(ge=0, le=30, description="Seconds to wait for the order to be final, or blocked."),
]

_bulk_order = TypeAdapter(BulkOrderIn)


@router.post("", status_code=202, response_model=AcceptedOrder)
async def submit_order(
    request: Request, body: OrderIn, key: RequiredKey, principal: Writer, use: Use
) -> Response:
    """Hand an order in. It is carried out in the background; `Location` is where to follow it."""
    if not principal.owns(body.user_id):
        raise problems.unknown_user(body.user_id)
    wish = Wish(key, body.order(), trace_context(request))
    verdict = await use.intake.accept(principal.tenant, wish)
    if isinstance(verdict, ProblemError):
        raise verdict
    return JsonAnswer(
        {"order": verdict.order, "job": verdict.job},
        202,
        {"Location": verdict.order["href"], **(REPLAYED if verdict.replayed else {})},
    )


@bulk_router.post("/bulk", response_model=BulkOut, response_model_exclude_unset=True)
async def submit_orders(request: Request, body: BulkIn, principal: Writer, use: Use) -> Response:
    """Hand up to 1,000 orders in. Each is accepted or refused by itself, under its own key."""
    wishes: dict[str, Wish] = {}
    answers: list[tuple[str, bool] | ProblemError] = []  # the key, and if it came before in here
    wary, trace = may_be_unstorable(await request.body()), trace_context(request)
    for item in body.orders:
        wish = _wish(principal, item, trace, wary=wary)
        if isinstance(wish, ProblemError):
            answers.append(wish)
            continue
        first = wishes.setdefault(wish.key.key, wish)
        if first is not wish and first.key.hash != wish.key.hash:
            answers.append(ProblemError(problems.KEY_REUSED))
        else:
            answers.append((wish.key.key, first is not wish))
    verdicts = await use.submission.accept(principal.tenant, list(wishes.values()))
    results = [
        _result(answer, number)
        if isinstance(answer, ProblemError)
        else _result(verdicts[answer[0]], number, repeated=answer[1])
        for number, answer in enumerate(answers)
    ]
    return JsonAnswer({"results": results})


def _wish(
    principal: Principal,
    item: Any,  # noqa: ANN401 - whatever JSON the caller put there
    trace: str | None,
    *,
    wary: bool,
) -> Wish | ProblemError:
    """Return what an item of a bulk asks for; it hashes as if it had come alone."""
    try:
        if wary:
            refuse_unstorable(item)
        order = _bulk_order.validate_python(item)
        key = parse_key(order.idempotency_key)
        if not principal.owns(order.user_id):
            raise problems.unknown_user(order.user_id)
    except ValidationError as error:
        if isinstance(item, dict) and "idempotency_key" not in item:
            return ProblemError(problems.KEY_REQUIRED, "The order has no idempotency_key.")
        return invalid_body(error)
    except ProblemError as problem:
        return problem
    alone = {name: value for name, value in item.items() if name != "idempotency_key"}
    return Wish(RequestKey(key, "POST", PATH, alone), order.order(), trace)


def _result(verdict: Verdict, number: int, *, repeated: bool = False) -> Document:
    """Return what is answered for the order ``number`` of a bulk."""
    if isinstance(verdict, Accepted):
        result = {"status": 202, "order": verdict.order, "job": verdict.job}
        return result | {"replayed": True} if verdict.replayed or repeated else result
    if verdict.errors:
        verdict = problems.validation(
            [{**e, "pointer": f"#/orders/{number}{e['pointer'][1:]}"} for e in verdict.errors]
        )
    return {"status": verdict.kind.status, "problem": verdict.document(f"{PATH}/bulk")}


@router.get("", response_model=OrderPage)
async def list_orders(
    query: Annotated[OrderQuery, Query()], principal: Reader, use: Use
) -> Response:
    """List orders, newest first; a customer's own alone."""
    if principal.owner is not None:
        if query.user_id not in {None, principal.owner}:
            raise not_found(f"user {query.user_id}")
        query = query.model_copy(update={"user_id": principal.owner})
    async with use.sessions.begin() as tx:
        return JsonAnswer(await page_of_orders(tx, principal.tenant, query))


@router.get("/{order_id:uuid}", response_model=OrderOut)
async def read_order(
    request: Request, order_id: OwnOrder, principal: Reader, use: Use, wait: Wait = 0
) -> Response:
    """Read an order; with `wait`, once it is final or blocked by a dead job, or time is up."""
    if wait:
        with use.news.watch(order_id) as watch:
            document = await use.news.last_look(
                request,
                watch,
                lambda: look_at_order(use.sessions, principal.tenant, order_id, watch),
                wait,
            )
    else:
        document = await read_whole_order(use.sessions, use.cache, principal.tenant, order_id)
    if document is None:
        raise not_found(f"order {order_id}")
    return JsonAnswer(document)


@router.post(
    "/{order_id:uuid}/cancel",
    status_code=202,
    response_model=ChangedOrder,
    responses=problems.refusals(problems.ORDER_STATE),
)
async def cancel_order(
    order_id: OwnOrder, key: AcceptedKey, principal: Writer, use: Use
) -> Response:
    """Call an order off: its goods go back on the shelf, and what was paid is given back."""
    async with use.sessions.begin() as tx:
        holder = await claim(tx, principal.tenant, key, {"order": str(order_id)})
        if holder.won:
            with _refusals(order_id):
                await cancellation.cancel_order(tx, principal.tenant, order_id)
        order = (await read_orders(tx, principal.tenant, [order_id]))[order_id]
    use.doorbell.ring(due=[RefundPayment.kind], changed=[order_id])
    return JsonAnswer({"order": order}, 202, {"Location": order["href"], **replayed(holder)})


@router.post(
    "/{order_id:uuid}/refund",
    status_code=202,
    response_model=AcceptedOrder,
    responses=problems.refusals(problems.ORDER_STATE),
)
async def refund_order(
    order_id: OwnOrder,
    key: RequiredKey,
    principal: Writer,
    use: Use,
    body: RefundIn | None = None,
) -> Response:
    """Give all or a part of what was paid back; `job` is where to follow it."""
    tenant = principal.tenant
    amount = None if body is None else body.amount
    async with use.sessions.begin() as tx:
        with _refusals(order_id):
            holder, job_id = await claim_job(
                tx,
                tenant,
                key,
                {"order": str(order_id)},
                lambda: cancellation.refund_order(tx, tenant, order_id, amount),
            )
        order = (await read_orders(tx, tenant, [order_id]))[order_id]
        job = await job_reference(tx, tenant, job_id)
    use.doorbell.ring(due=[RefundPayment.kind])
    return JsonAnswer(
        {"order": order, "job": job}, 202, {"Location": order["href"], **replayed(holder)}
    )


@contextmanager
def _refusals(order_id: UUID) -> Iterator[None]:
    """Tell the business's refusals as problems."""
    try:
        yield
    except cancellation.OrderNotFoundError as error:
        raise not_found(f"order {order_id}") from error
    except cancellation.OrderStateError as error:
        detail = str(error)
        raise ProblemError(problems.ORDER_STATE, f"{detail[0].upper()}{detail[1:]}.") from error
