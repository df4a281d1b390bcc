"""The inbox: an event that makes us ask the gateway does so once, however often it is delivered.

Those that tell what our books have leave no row: they would change nothing the next time either,
unless they have become news by then.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.payments.events import Event
from commerce.payments.rules import PaymentState
from goodsyard.database import Sessions, in_time

# Stripe delivers an event again for three days ("Automatic retries", docs.stripe.com/webhooks), and
# by hand for thirty. Each new one takes some old ones along, so that nobody has to clean up.
_TAKE_IN = text("""
    WITH old AS (
        DELETE FROM commerce.inbox
         WHERE id IN (SELECT id FROM commerce.inbox
                       WHERE received_at < now() - interval '40 days'
                       ORDER BY received_at LIMIT 10 FOR UPDATE SKIP LOCKED))
    INSERT INTO commerce.inbox (id, kind) VALUES (:id, :kind)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
""")

_ABOUT = text("""
    SELECT p.id, p.tenant, p.state,
           EXISTS (SELECT FROM goodsyard.job j
                    WHERE j.subject = p.id AND j.kind = 'payments.charge' AND j.state <> 'dead')
             AS is_charging
      FROM commerce.payment p
     WHERE p.gateway_id = :charge
        OR p.id = :payment
     ORDER BY p.gateway_id = :charge DESC NULLS LAST
     LIMIT 1
""")


class About(NamedTuple):
    """The payment that an event is about, as our books have it."""

    payment_id: UUID
    tenant: int
    state: PaymentState
    is_charging: bool


async def take_in(tx: AsyncSession, event: Event) -> bool:
    """Note that an event has come; return whether it is the first time."""
    parameters = {"id": event.id, "kind": event.type}
    return await tx.scalar(_TAKE_IN, parameters) is not None


async def payment_about(sessions: Sessions, event: Event) -> About | None:
    """Return the payment that an event is about, whosever it is; ``None`` if it is none of ours.

    One round trip and no transaction: there is an event of every charge, and nearly all of them
    tell what our books have.
    """
    if event.charge is None:
        return None
    parameters = {"charge": event.charge, "payment": event.payment_id}
    async with in_time(), sessions.committing() as connection:
        row = (await connection.execute(_ABOUT, parameters)).one_or_none()
    if row is None:
        return None
    return About(row.id, row.tenant, PaymentState(row.state), row.is_charging)
