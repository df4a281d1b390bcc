"""Creates orders in one statement that commits itself: each whole, with key and job, or not at all.

A lone order then costs one round trip to Postgres, and a thousand cost one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from commerce.accounts.users import BUYERS
from commerce.orders import rows
from commerce.orders.rows import NewOrder
from goodsyard import request_keys
from goodsyard.database import Sessions, in_time
from goodsyard.job import new_id
from goodsyard.request_keys import KeyClaim
from goodsyard.submit import Staged, as_columns, staging
from producers.idempotency import RequestKey
from tasks.contracts import ProcessOrder


@dataclass(frozen=True, slots=True)
class Wish:
    """An order somebody wants, under a key, in the course of a trace if there is one."""

    key: RequestKey
    order: NewOrder
    trace_context: str | None = None
    job_id: UUID = field(default_factory=new_id)

    @property
    def claim(self) -> KeyClaim:
        """The wish to be the one that creates this order and its job."""
        return self.key.claim({"order": str(self.order.id), "job": str(self.job_id)})


class Created(NamedTuple):
    """What became of wishes."""

    at: datetime
    keys: AbstractSet[str]
    """Whose orders were created."""
    buyers: AbstractSet[UUID]
    """Those of their users who may buy: an order of one of them that wasn't created lost its key to
    somebody else."""


# All parts see the same rows, those of before the statement; but the lock on a user waits for an
# erasure that is under way and reads its outcome, and a key that another transaction has just
# inserted is waited for, and lost if that commits. No key is taken for a stranger's order.
_CREATE = text(f"""
    WITH buyer AS MATERIALIZED ({BUYERS}),
    won AS ({
    request_keys.claiming('''c.key IN (
        SELECT w.key
          FROM unnest(CAST(:keys AS text[]), CAST(:users AS uuid[])) AS w(key, user_id)
          JOIN buyer ON buyer.id = w.user_id)''')
}),
    accepted AS MATERIALIZED (
        SELECT a.order_id, a.job_id
          FROM unnest(CAST(:keys AS text[]), CAST(:orders AS uuid[]), CAST(:staged_ids AS uuid[]))
            AS a(key, order_id, job_id)
          JOIN won ON won.key = a.key),
    {rows.inserting("order_id IN (SELECT a.order_id FROM accepted a)")},
    staged AS ({staging("s.id IN (SELECT a.job_id FROM accepted a)")})
    SELECT now() AS accepted_at, ARRAY(SELECT key FROM won), ARRAY(SELECT id FROM buyer)
""")  # noqa: S608 - no value gets in here, only SQL of our own


async def create(
    sessions: Sessions, tenant: int, wishes: Sequence[Wish], patience_ms: int
) -> Created:
    """Create those of the orders whose keys are free and whose users are known; commits.

    Args:
        sessions: where to.
        tenant: whose orders.
        wishes: under distinct keys.
        patience_ms: how long to wait for who is in the way.

    Raises:
        KeyInFlightError: a request with one of the keys, or the erasure of one of the users, didn't
            end in that time. Nothing was created.
    """
    jobs = [
        Staged(
            tenant,
            ProcessOrder(order_id=wish.order.id),
            trace_context=wish.trace_context,
            id=wish.job_id,
        )
        for wish in wishes
    ]
    parameters = (
        request_keys.claim_columns(tenant, [wish.claim for wish in wishes], patience_ms)
        | rows.columns(tenant, [wish.order for wish in wishes])
        | as_columns(jobs)
    )
    with request_keys.in_flight():
        async with in_time(), sessions.committing() as connection:
            at, keys, buyers = (await connection.execute(_CREATE, parameters)).one()
    return Created(at, set(keys), set(buyers))
