"""An event is told in the commit that makes it true: a webhook's job for each who wants to hear it.

One statement a chunk, whatever the number of its orders; where nobody listens it inserts nothing.
In which order events arrive is promised to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.notifications import events
from goodsyard.deaths import Death
from goodsyard.submit import as_kind, staging_from
from tasks.contracts import SendWebhook

_TELL_CHANGED = text(staging_from(events.CHANGED))
_TELL_DIED = text(staging_from(events.DIED))


async def tell(
    tx: AsyncSession, *, orders: Iterable[UUID] = (), payments: Iterable[UUID] = ()
) -> None:
    """Tell what orders and payments have just become, in the transaction in which they did.

    It returns nothing, so it may be sent ahead; it locks nothing that others wait for.
    """
    parameters = {"orders": list(orders), "payments": list(payments)}
    if any(parameters.values()):
        await tx.execute(_TELL_CHANGED, as_kind(SendWebhook) | parameters)


async def tell_of_deaths(tx: AsyncSession, deaths: Sequence[Death]) -> None:
    """Tell of dead jobs, in the transaction of their deaths; of dead webhooks nobody is told.

    A death of those would cause the next one, and so on.
    """
    told = [death for death in deaths if death.kind != SendWebhook.kind]
    if told:
        parameters = {
            "ids": [death.id for death in told],
            "tenants": [death.tenant for death in told],
            "kinds": [death.kind for death in told],
            "subjects": [death.subject for death in told],
            "reasons": [death.reason for death in told],
        }
        await tx.execute(_TELL_DIED, as_kind(SendWebhook) | parameters)
