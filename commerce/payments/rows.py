"""Statements over many payments at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.accounts.users import BUYERS
from commerce.payments.rules import PaymentState
from goodsyard.job import new_id


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A payment about to be inserted: what the gateway will be asked for, frozen from here on."""

    tenant: int
    order_id: UUID | None
    user_id: UUID
    amount: int
    currency: str
    payment_method: str
    id: UUID = field(default_factory=new_id)


class LockedPayment(NamedTuple):
    """A payment under our lock."""

    id: UUID
    tenant: int
    order_id: UUID | None
    amount: int
    currency: str
    state: PaymentState
    gateway_id: str | None
    amount_refunded: int


_INSERT = text("""
    INSERT INTO commerce.payment (id, tenant, order_id, user_id, amount, currency, payment_method)
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:tenants AS int[]), CAST(:orders AS uuid[]),
                         CAST(:users AS uuid[]), CAST(:amounts AS bigint[]),
                         CAST(:currencies AS text[]), CAST(:methods AS text[]))
""")

_LOCK = text("""
    SELECT id, tenant, order_id, amount, currency, state, gateway_id, amount_refunded
      FROM commerce.payment
     WHERE id = ANY(CAST(:ids AS uuid[]))
     ORDER BY id
       FOR NO KEY UPDATE
""")

_MOVE = text("""
    UPDATE commerce.payment AS p
       SET state = CAST(m.state AS commerce.payment_state), updated_at = clock_timestamp(),
           gateway_id = coalesce(m.gateway_id, p.gateway_id), failure = m.failure
      FROM unnest(CAST(:ids AS uuid[]), CAST(:states AS text[]), CAST(:gateway_ids AS text[]),
                  CAST(:failures AS text[]))
        AS m(id, state, gateway_id, failure)
     WHERE p.id = m.id AND p.id = ANY(CAST(:ids AS uuid[]))
""")

_ADD_REFUNDED = text("""
    UPDATE commerce.payment AS p
       SET amount_refunded = p.amount_refunded + m.amount, updated_at = clock_timestamp()
      FROM unnest(CAST(:ids AS uuid[]), CAST(:amounts AS bigint[])) AS m(id, amount)
     WHERE p.id = m.id AND p.id = ANY(CAST(:ids AS uuid[]))
""")

_ORDERS_OF = text("""
    SELECT id, order_id FROM commerce.payment
     WHERE id = ANY(CAST(:ids AS uuid[])) AND order_id IS NOT NULL
""")

_OF_ORDER = text("""
    SELECT id FROM commerce.payment
     WHERE order_id = :order_id AND state IN ('pending', 'succeeded')
""")


_PENDING_OF = text("""
    SELECT order_id, id FROM commerce.payment
     WHERE order_id = ANY(CAST(:order_ids AS uuid[])) AND state = 'pending'
""")

_BUYERS = text(BUYERS)

_NOTE_DISPUTE = text("""
    UPDATE commerce.payment SET dispute = :dispute, updated_at = clock_timestamp()
     WHERE id = :id AND dispute IS DISTINCT FROM :dispute
""")


class Verdict(NamedTuple):
    """A payment's new state, and what the gateway said."""

    state: PaymentState
    gateway_id: str | None = None
    failure: str | None = None


async def may_buy(tx: AsyncSession, tenant: int, user_id: UUID) -> bool:
    """Whether there is such a user, who then isn't erased before the transaction's end."""
    return await tx.scalar(_BUYERS, {"tenant": tenant, "users": [user_id]}) is not None


async def insert(tx: AsyncSession, payments: Sequence[NewPayment]) -> None:
    """Insert payments; the schema refuses a second live one of the same order."""
    if payments:
        parameters = {
            "ids": [p.id for p in payments],
            "tenants": [p.tenant for p in payments],
            "orders": [p.order_id for p in payments],
            "users": [p.user_id for p in payments],
            "amounts": [p.amount for p in payments],
            "currencies": [p.currency for p in payments],
            "methods": [p.payment_method for p in payments],
        }
        await tx.execute(_INSERT, parameters)


async def lock(tx: AsyncSession, ids: Sequence[UUID]) -> dict[UUID, LockedPayment]:
    """Lock payments in the order of their ids; their orders are locked before them."""
    rows = await tx.execute(_LOCK, {"ids": list(ids)})
    return {row.id: LockedPayment(*row)._replace(state=PaymentState(row.state)) for row in rows}


async def live_payment_of(tx: AsyncSession, order_id: UUID) -> UUID | None:
    """Return the order's payment that is pending or succeeded; there is one at the most."""
    payment: UUID | None = await tx.scalar(_OF_ORDER, {"order_id": order_id})
    return payment


async def pending_payments_of(tx: AsyncSession, order_ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """Return the payment of each of the orders that has one whose charge is under way."""
    rows = await tx.execute(_PENDING_OF, {"order_ids": list(order_ids)})
    return {row.order_id: row.id for row in rows}


async def orders_of(tx: AsyncSession, ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """Return the order of each of the payments that is for one; it never changes."""
    rows = await tx.execute(_ORDERS_OF, {"ids": list(ids)})
    return {row.id: row.order_id for row in rows}


async def move(tx: AsyncSession, verdicts: Mapping[UUID, Verdict]) -> None:
    """Give locked payments their new state; one statement."""
    if verdicts:
        parameters = {
            "ids": list(verdicts),
            "states": [v.state.value for v in verdicts.values()],
            "gateway_ids": [v.gateway_id for v in verdicts.values()],
            "failures": [v.failure for v in verdicts.values()],
        }
        await tx.execute(_MOVE, parameters)


async def add_refunded(tx: AsyncSession, amounts: Mapping[UUID, int]) -> None:
    """Add to what was given back of locked payments; the schema refuses more than was paid."""
    if amounts:
        parameters = {"ids": list(amounts), "amounts": list(amounts.values())}
        await tx.execute(_ADD_REFUNDED, parameters)


async def note_dispute(tx: AsyncSession, payment_id: UUID, dispute: str | None) -> None:
    """Write down what is said against a locked payment; ``None`` if nothing is."""
    await tx.execute(_NOTE_DISPUTE, {"id": payment_id, "dispute": dispute})
