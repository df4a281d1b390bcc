"""Who is erased is gone from the mails too: those to come are called off, the others blanked.

The jobs stay, with their times and states; the ledger knows no address. A mail that is being handed
over at this moment can be neither called off nor blanked: the erasure is put off until it is out.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import steps
from goodsyard.recall import CANCEL_MINE
from tasks.contracts import SendEmail

NOBODY: Final = "erased@erased.invalid"
"""Whom a blanked mail is to: no mail ever gets there (RFC 2606, section 2)."""

ERASED: Final = "erased"
"""Why a workflow is abandoned of which a mail was called off."""

# Named in the text, not bound: only so does the planner know that the partial index is meant.
_TO_THEM = f"""
    tenant = :tenant AND kind = '{SendEmail.kind}' AND lower(payload ->> 'to') = lower(:address)
"""

_CALL_OFF = text(f"""
    WITH mine AS MATERIALIZED (
        SELECT id FROM goodsyard.job
         WHERE {_TO_THEM} AND state IN ('waiting', 'dispatched', 'dead')
           FOR UPDATE SKIP LOCKED),
    {CANCEL_MINE}
""")  # noqa: S608 - what is put in are constants

_UNDER_WAY = text(f"SELECT EXISTS (SELECT FROM goodsyard.job WHERE {_TO_THEM})")  # noqa: S608 - the same

_BLANK = text(f"""
    WITH blanked AS (
        UPDATE goodsyard.job_done
           SET payload = jsonb_build_object('to', '{NOBODY}'), result = NULL, error = NULL
         WHERE {_TO_THEM}
        RETURNING id)
    UPDATE goodsyard.job_attempt SET error = 'erased'
     WHERE job_id IN (SELECT id FROM blanked)
""")  # noqa: S608 - the same


_STEPS = text(f"""
    SELECT id, workflow FROM goodsyard.job WHERE {_TO_THEM} AND workflow IS NOT NULL
""")  # noqa: S608 - the same

_NEVER_SEND = text(f"""
    UPDATE goodsyard.step SET kind = NULL, payload = NULL WHERE {_TO_THEM}
""")  # noqa: S608 - the same


class MailUnderWayError(Exception):
    """A mail to the address is being handed over; it is out, or waits again, in some seconds."""


async def forget_mails(tx: AsyncSession, tenant: int, address: str) -> None:
    """Call off the tenant's mails to ``address``, and blank those that are over.

    A workflow of which one was a step can't succeed any more: it is abandoned.

    Args:
        tx: the transaction that erases whose address it is; the caller commits.
        tenant: whose mails.
        address: whatever its case.

    Raises:
        MailUnderWayError: one is being sent. The transaction is to be rolled back.
    """
    whose = {"tenant": tenant, "address": address}
    steps_of = {row.id: row.workflow for row in await tx.execute(_STEPS, whose)}
    if steps_of:
        # First of all: who holds a workflow alone has none of its rows locked yet.
        await steps.hold(tx, steps_of.values(), alone=True)
    await tx.execute(_NEVER_SEND, whose)
    if steps_of:
        await steps.abandon(tx, set(steps_of.values()), ERASED)
    called_off = set(await tx.scalars(_CALL_OFF, whose))
    if undoing := steps_of.keys() & called_off:
        await steps.release(tx, {job: steps_of[job] for job in undoing})
    if await tx.scalar(_UNDER_WAY, whose):
        raise MailUnderWayError
    await tx.execute(_BLANK, whose)
