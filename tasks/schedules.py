"""What is done by the clock, on one page."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.payments import reconciliation
from goodsyard.contracts import Contract
from goodsyard.schedules import Misfire, Schedule
from tasks.contracts import ReconcilePayments


async def _reconcile_the_day_before(
    tx: AsyncSession, tick: datetime
) -> Iterable[tuple[int, Contract]]:
    """Have each tenant's payments of the day before compared with the gateway's."""
    until = tick.replace(hour=0, minute=0, second=0, microsecond=0)
    since = until - timedelta(days=1)
    report = ReconcilePayments(since=since, until=until)
    return [(tenant, report) for tenant in await reconciliation.who_paid(tx, since, until)]


ALL: tuple[Schedule, ...] = (
    # Three hours after the day's end: what was under way at midnight is over, and the gateway's own
    # events have arrived.
    Schedule(
        "payments.reconcile-daily",
        "0 3 * * *",
        _reconcile_the_day_before,
        misfire=Misfire.ALL,
        overlap=True,
    ),
)
