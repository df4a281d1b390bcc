"""Orders as they are sent in and shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic_core import PydanticCustomError

from commerce.money import MAX_AMOUNT, Amount, Currency, Money
from commerce.orders.models import Order, OrderLine
from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line, OrderStatus, total_of
from goodsyard.job import JobState
from goodsyard.jobs import DeadJob
from producers.bodies import FreeForm, one_by_one
from producers.idempotency import KEY_PATTERN
from producers.problems import Problem

MAX_LINES = 100
MAX_BULK = 1_000

Sku = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,63}$")]
"""What a tenant calls a good; it fits in a path."""


class LineIn(BaseModel):
    """A line of an order; several may name the same SKU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sku: Sku
    quantity: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    unit_amount: Amount = Field(description="The price of one piece, in minor units.")


def _within_the_most(lines: Sequence[LineIn]) -> Sequence[LineIn]:
    if sum(line.quantity * line.unit_amount for line in lines) > MAX_AMOUNT:
        raise PydanticCustomError(
            "total_too_large", "The total is above {most} minor units", {"most": MAX_AMOUNT}
        )
    return lines


class OrderIn(BaseModel):
    """An order to be carried out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: UUID
    currency: Currency
    lines: Annotated[
        list[LineIn], Field(min_length=1, max_length=MAX_LINES), AfterValidator(_within_the_most)
    ]
    payment_method: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,255}$")] = Field(
        description="The gateway's name for it, as in `pm_card_visa`."
    )
    metadata: FreeForm = Field(
        default_factory=dict, description="Whatever the caller wants to find again."
    )

    def order(self) -> NewOrder:
        """Return the order to insert, under an id of its own."""
        return NewOrder(
            self.user_id,
            self.currency,
            [Line(line.sku, line.quantity, line.unit_amount) for line in self.lines],
            self.payment_method,
            self.metadata,
        )


class BulkOrderIn(OrderIn):
    """One order of many, with the key it would carry in the header if it came alone."""

    idempotency_key: Annotated[str, StringConstraints(pattern=KEY_PATTERN)]


class BulkIn(BaseModel):
    """Many orders, each accepted or refused by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Looked at one by one, so that a bad order is that order's problem and not the request's.
    orders: Annotated[
        list[Any],
        Field(max_length=MAX_BULK),
        one_by_one({"$ref": "#/components/schemas/BulkOrderIn"}, MAX_BULK),
    ]


class LineOut(BaseModel):
    """A line of an order."""

    sku: str
    quantity: int
    unit_amount: int


class BlockedBy(BaseModel):
    """The dead job that keeps an order from going on; a retry of it lets the order go on."""

    job: UUID
    kind: str
    reason: str
    href: str


class OrderOut(BaseModel):
    """An order and how far it is."""

    id: UUID
    href: str
    status: OrderStatus
    reason: str | None = Field(description="Why it was rejected, not paid or cancelled.")
    user_id: UUID
    currency: Currency
    total: Money
    amount_refunded: Money
    lines: list[LineOut]
    payment_method: str
    metadata: dict[str, JsonValue]
    created_at: datetime
    updated_at: datetime
    blocked_by: BlockedBy | None = Field(
        default=None, description="Where a single order is asked for, and a job of it is dead."
    )


class JobRef(BaseModel):
    """A job, to follow."""

    id: UUID
    state: JobState
    href: str


class AcceptedOrder(BaseModel):
    """An order that was accepted, and the job that carries it out."""

    order: OrderOut
    job: JobRef


class ChangedOrder(BaseModel):
    """An order after what was asked for."""

    order: OrderOut


class BulkResult(BaseModel):
    """What became of one order of a bulk: an order and its job, or a problem."""

    status: int
    order: OrderOut | None = None
    job: JobRef | None = None
    problem: Problem | None = None
    replayed: bool = False


class BulkOut(BaseModel):
    """What became of the orders of a bulk, in their order."""

    results: list[BulkResult]


class OrderPage(BaseModel):
    """Orders, newest first."""

    data: list[OrderOut]
    next_cursor: str | None


Document = dict[str, Any]
"""JSON as it is answered."""


def job_href(job_id: UUID) -> str:
    """Return the path of a job."""
    return f"/v1/jobs/{job_id}"


def job_ref(job_id: UUID, state: JobState) -> Document:
    """Return a job as other resources point to it."""
    return {"id": job_id, "state": state, "href": job_href(job_id)}


def order_href(order_id: UUID) -> str:
    """Return the path of an order."""
    return f"/v1/orders/{order_id}"


def blocked_by(job: DeadJob) -> Document:
    """Return what an order says of the job that blocks it."""
    return {"job": job.id, "kind": job.kind, "reason": job.reason, "href": job_href(job.id)}


def new_order(order: NewOrder, created_at: datetime) -> Document:
    """Return an order that was just accepted."""
    total = total_of(order.lines)
    return {
        "id": order.id,
        "href": order_href(order.id),
        "status": OrderStatus.PENDING,
        "reason": None,
        "user_id": order.user_id,
        "currency": order.currency,
        "total": {"amount": total, "currency": order.currency},
        "amount_refunded": {"amount": 0, "currency": order.currency},
        "lines": _lines(order.lines),
        "payment_method": order.payment_method,
        "metadata": order.metadata,
        "created_at": created_at,
        "updated_at": created_at,
    }


def order(order: Order, lines: Iterable[OrderLine]) -> Document:
    """Return an order as it is now."""
    return {
        "id": order.id,
        "href": order_href(order.id),
        "status": order.status,
        "reason": order.reason,
        "user_id": order.user_id,
        "currency": order.currency,
        "total": {"amount": order.total, "currency": order.currency},
        "amount_refunded": {"amount": order.amount_refunded, "currency": order.currency},
        "lines": _lines(lines),
        "payment_method": order.payment_method,
        "metadata": order.details,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }


def _lines(lines: Iterable[Line | OrderLine]) -> list[Mapping[str, object]]:
    return [
        {"sku": line.sku, "quantity": line.quantity, "unit_amount": line.unit_amount}
        for line in lines
    ]
