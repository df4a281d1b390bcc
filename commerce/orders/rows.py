"""Statements over many orders at once: insert, lock, move, read with their lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import orjson
from pydantic import JsonValue
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders.models import Order, OrderLine
from commerce.orders.rules import Demand, Line, OrderStatus, quantities, total_of
from goodsyard.job import new_id


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order about to be inserted."""

    user_id: UUID
    currency: str
    lines: Sequence[Line]
    payment_method: str
    metadata: Mapping[str, JsonValue]
    id: UUID = field(default_factory=new_id)


class LockedOrder(NamedTuple):
    """An order under our lock, with what the flow decides by and hands on."""

    id: UUID
    tenant: int
    user_id: UUID
    email: str | None
    currency: str
    total: int
    status: OrderStatus
    payment_method: str
    cancel_requested: bool


def inserting(only: str = "true") -> str:
    """Return CTEs that insert orders with their lines; their parameters are ``columns``.

    Args:
        only: which orders, by a condition on ``order_id``, as SQL.
    """
    return f"""
    new_order AS (
        INSERT INTO commerce.orders (id, tenant, user_id, currency, total, payment_method, metadata)
        SELECT order_id, :tenant, user_id, currency, total, payment_method, metadata
          FROM unnest(CAST(:orders AS uuid[]), CAST(:users AS uuid[]), CAST(:currencies AS text[]),
                      CAST(:totals AS bigint[]), CAST(:methods AS text[]),
                      CAST(:metadata AS jsonb[]))
            AS o(order_id, user_id, currency, total, payment_method, metadata)
         WHERE {only}),
    new_line AS (
        INSERT INTO commerce.order_line (order_id, line_no, tenant, sku, quantity, unit_amount)
        SELECT order_id, line_no, :tenant, sku, quantity, unit_amount
          FROM unnest(CAST(:line_orders AS uuid[]), CAST(:line_numbers AS smallint[]),
                      CAST(:skus AS text[]), CAST(:quantities AS int[]), CAST(:units AS bigint[]))
            AS l(order_id, line_no, sku, quantity, unit_amount)
         WHERE {only})
    """  # noqa: S608 - no value gets in here, only SQL of our own


_INSERT = text(f"WITH {inserting()} SELECT now()")

_LOCK = text("""
    SELECT o.id, o.tenant, o.user_id,
           (SELECT u.email FROM commerce.users u WHERE u.id = o.user_id) AS email,
           o.currency, o.total, o.status, o.payment_method, o.cancel_requested
      FROM commerce.orders o
     WHERE o.id = ANY(CAST(:ids AS uuid[]))
     ORDER BY o.id
       FOR NO KEY UPDATE OF o
""")

_LINES = text("""
    SELECT order_id, tenant, sku, quantity FROM commerce.order_line
     WHERE order_id = ANY(CAST(:ids AS uuid[]))
""")

_MOVE = text("""
    UPDATE commerce.orders AS o
       SET status = CAST(m.status AS commerce.order_status), reason = m.reason,
           updated_at = clock_timestamp()
      FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:reasons AS text[]))
        AS m(id, status, reason)
     WHERE o.id = m.id AND o.id = ANY(CAST(:ids AS uuid[]))
""")

# xmin is the transaction that wrote the row as it is: whatever changes the row changes it, too.
_FINAL_VERSION = text("""
    SELECT xmin::text FROM commerce.orders
     WHERE tenant = :tenant AND id = :id AND status NOT IN ('pending', 'reserved')
""")

_REQUEST_CANCEL = text("UPDATE commerce.orders SET cancel_requested = true WHERE id = :id")

_ADD_REFUNDED = text("""
    UPDATE commerce.orders
       SET amount_refunded = amount_refunded + :amount, updated_at = clock_timestamp(),
           status = CASE WHEN amount_refunded + :amount = total THEN 'refunded' ELSE status
                     END::commerce.order_status
     WHERE id = :id
""")


def columns(tenant: int, orders: Sequence[NewOrder]) -> dict[str, object]:
    """Return the parameters of ``inserting``."""
    lines = [(o.id, number, line) for o in orders for number, line in enumerate(o.lines, 1)]
    return {
        "tenant": tenant,
        "orders": [o.id for o in orders],
        "users": [o.user_id for o in orders],
        "currencies": [o.currency for o in orders],
        "totals": [total_of(o.lines) for o in orders],
        "methods": [o.payment_method for o in orders],
        "metadata": [orjson.dumps(o.metadata).decode() for o in orders],
        "line_orders": [order_id for order_id, _, _ in lines],
        "line_numbers": [number for _, number, _ in lines],
        "skus": [line.sku for _, _, line in lines],
        "quantities": [line.quantity for _, _, line in lines],
        "units": [line.unit_amount for _, _, line in lines],
    }


async def insert(tx: AsyncSession, tenant: int, orders: Sequence[NewOrder]) -> datetime:
    """Insert orders with their lines, in one statement, and return when they were created.

    Raises:
        sqlalchemy.exc.IntegrityError: a user doesn't exist (any more). The transaction is over.
    """
    created_at: datetime = (await tx.execute(_INSERT, columns(tenant, orders))).scalar_one()
    return created_at


async def lock(tx: AsyncSession, ids: Sequence[UUID]) -> dict[UUID, LockedOrder]:
    """Lock orders in the order of their ids, so that no two chunks wait for each other."""
    rows = await tx.execute(_LOCK, {"ids": list(ids)})
    return {row.id: LockedOrder(*row)._replace(status=OrderStatus(row.status)) for row in rows}


async def demands(tx: AsyncSession, ids: Sequence[UUID]) -> list[Demand]:
    """Return what each of the orders needs, in the order of ``ids``."""
    lines: defaultdict[UUID, list[tuple[tuple[int, str], int]]] = defaultdict(list)
    for order_id, tenant, sku, quantity in await tx.execute(_LINES, {"ids": list(ids)}):
        lines[order_id].append(((tenant, sku), quantity))
    return [Demand(order_id, quantities(lines[order_id])) for order_id in ids]


async def move(tx: AsyncSession, moves: Mapping[UUID, tuple[OrderStatus, str | None]]) -> None:
    """Give locked orders their new status and its reason; one statement."""
    if moves:
        parameters = {
            "ids": list(moves),
            "statuses": [status.value for status, _ in moves.values()],
            "reasons": [reason for _, reason in moves.values()],
        }
        await tx.execute(_MOVE, parameters)


async def request_cancel(tx: AsyncSession, order_id: UUID) -> None:
    """Mark a locked order, so that whichever chunk has it next knows that it was called off."""
    await tx.execute(_REQUEST_CANCEL, {"id": order_id})


async def add_refunded(tx: AsyncSession, order_id: UUID, amount: int) -> None:
    """Add to what was given back of a locked order; all of it makes the order ``refunded``."""
    await tx.execute(_ADD_REFUNDED, {"id": order_id, "amount": amount})


async def lines_of(tx: AsyncSession, ids: Sequence[UUID]) -> dict[UUID, list[OrderLine]]:
    """Return the lines of orders, by order, in one statement however many there are."""
    if not ids:
        return {}
    statement = (
        select(OrderLine)
        .where(OrderLine.order_id.in_(ids))
        .order_by(OrderLine.order_id, OrderLine.line_no)
    )
    lines: dict[UUID, list[OrderLine]] = {order_id: [] for order_id in ids}
    for line in await tx.scalars(statement):
        lines[line.order_id].append(line)
    return lines


async def final_version(tx: AsyncSession, tenant: int, order_id: UUID) -> str | None:
    """Return what tells this version of a final order from every later one.

    Returns:
        ``None`` if the tenant has no such order, or it is still under way.
    """
    version: str | None = await tx.scalar(_FINAL_VERSION, {"tenant": tenant, "id": order_id})
    return version


async def of_tenant(tx: AsyncSession, tenant: int, ids: Sequence[UUID]) -> dict[UUID, Order]:
    """Return those of the orders that are the tenant's, in one statement."""
    statement = select(Order).where(Order.tenant == tenant, Order.id.in_(ids))
    return {order.id: order for order in await tx.scalars(statement)}
