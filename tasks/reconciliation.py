"""``payments.reconcile``: what the gateway captured against what the ledger booked, as a report."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.payments import reconciliation
from commerce.payments.gateway import Gateway
from commerce.payments.reconciliation import Charge, Period, compare
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome
from tasks.contracts import ReconcilePayments


class Reconcile:
    """Compares both ways and repairs nothing: which side is right is a person's question."""

    contract = ReconcilePayments

    def __init__(self, gateway: Gateway) -> None:
        """Read ``gateway``."""
        self._gateway = gateway

    async def call(self, job: Job[ReconcilePayments]) -> list[Charge]:
        """Read what the gateway captured in the period."""
        return await self._gateway.captured(_period(job))

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[ReconcilePayments], list[Charge]]]
    ) -> Sequence[Outcome]:
        """Report the differences."""
        return [await _report(tx, job, captured) for job, captured in answered]


def _period(job: Job[ReconcilePayments]) -> Period:
    return Period(job.payload.since, job.payload.until)


async def _report(
    tx: AsyncSession, job: Job[ReconcilePayments], captured: Sequence[Charge]
) -> Outcome:
    booked = await reconciliation.booked(tx, job.tenant, _period(job))
    named = [charge.payment_id for charge in captured if charge.payment_id]
    others = await reconciliation.of_other_tenants(tx, job.tenant, named)
    ours = [charge for charge in captured if charge.payment_id not in others]
    return Done(
        compare(ours, booked, _period(job)).report()
        | {"captured": len(ours), "booked": len(booked)}
    )
