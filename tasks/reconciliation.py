"""``payments.reconcile``: what the gateway took and gave back against the ledger, as a report."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.payments import reconciliation
from commerce.payments.gateway import Gateway
from commerce.payments.reconciliation import Period, Statement, report
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome
from tasks.contracts import ReconcilePayments


class Reconcile:
    """Compares both ways and repairs nothing: which side is right is a person's question."""

    contract = ReconcilePayments

    def __init__(self, gateway: Gateway) -> None:
        """Read ``gateway``."""
        self._gateway = gateway

    async def call(self, job: Job[ReconcilePayments]) -> Statement:
        """Read what the gateway captured and gave back in the period, many pages of it maybe."""

        def turn_page(read: float) -> None:
            job.run.progress(read, "reading the gateway's charges and refunds")
            job.run.check()

        return await self._gateway.statement(_period(job), turn_page)

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[ReconcilePayments], Statement]]
    ) -> Sequence[Outcome]:
        """Report the differences."""
        return [await _compared(tx, job, gateway) for job, gateway in answered]


def _period(job: Job[ReconcilePayments]) -> Period:
    return Period(job.payload.since, job.payload.until)


async def _compared(tx: AsyncSession, job: Job[ReconcilePayments], gateway: Statement) -> Outcome:
    books = await reconciliation.booked(tx, job.tenant, _period(job))
    ours = await reconciliation.without_other_tenants(tx, job.tenant, gateway)
    return Done(report(ours, books, _period(job)))
