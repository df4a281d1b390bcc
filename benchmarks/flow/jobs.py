"""The kinds that flow control is measured by, wired into the flow as any new kind would be.

``celery -A benchmarks.flow.jobs worker`` and ``python -m benchmarks.flow.jobs`` are the shipped
worker and relay; that they know these kinds as well is all the difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks import marks
from commerce.notifications.channels import Channels
from commerce.notifications.mailer import Mailer
from commerce.payments.gateway import Gateway
from goodsyard.contracts import Concurrency, Contract, Effect, Policy, Rate
from goodsyard.flow import DatabaseHandler, Handler
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome
from goodsyard.schedules import Schedule
from tasks import contracts, flow, schedules
from tasks.webhooks import Webhook


class Work(Contract):
    """Leave a mark as soon as the effect is committed."""

    kind: ClassVar[str] = "bench.work"
    effect: ClassVar[Effect] = Effect.DATABASE
    policy: ClassVar[Policy] = Policy(queue="orders")

    number: int


class LongWork(Contract):
    """The same after 10 ms each; so a chunk is few of them."""

    kind: ClassVar[str] = "bench.long_work"
    effect: ClassVar[Effect] = Effect.DATABASE
    policy: ClassVar[Policy] = Policy(queue="orders", chunk=10)

    number: int


LONG_SECONDS = 0.01


class Call(Contract):
    """Charge at the gateway, nothing else; how often, the subclasses say."""

    effect: ClassVar[Effect] = Effect.EXTERNAL

    number: int
    """The payment's id, as a number: the gateway leaves its mark under it."""
    order: int = 0
    cost: float = 1.0


class Rated(Call):
    """So many a second, all together."""

    kind: ClassVar[str] = "bench.rated"
    policy: ClassVar[Policy] = Policy(queue="payments", limit=Rate("50/second", burst=20))


class RatedByTenant(Call):
    """So many a second for each tenant."""

    kind: ClassVar[str] = "bench.rated_by_tenant"
    policy: ClassVar[Policy] = Policy(
        queue="payments", limit=Rate("10/second", burst=5, key=lambda job: job.tenant)
    )


class RatedByCost(Call):
    """So much a second, each job at its own cost."""

    kind: ClassVar[str] = "bench.rated_by_cost"
    policy: ClassVar[Policy] = Policy(
        queue="payments",
        limit=Rate("60/second", burst=20, cost=lambda job: job.payload.cost),
    )


class TenAbreast(Call):
    """Ten at a time, in the whole cluster."""

    kind: ClassVar[str] = "bench.ten_abreast"
    policy: ClassVar[Policy] = Policy(queue="payments", concurrency=Concurrency(10))


class OneByOne(Call):
    """One at a time for each order."""

    kind: ClassVar[str] = "bench.one_by_one"
    policy: ClassVar[Policy] = Policy(
        queue="payments", concurrency=Concurrency(1, key=lambda job: job.payload.order)
    )


CALLS: tuple[type[Call], ...] = (Rated, RatedByTenant, RatedByCost, TenAbreast, OneByOne)


def _mark_the_commit(jobs: Sequence[Job[Work | LongWork]], tx: AsyncSession) -> list[Outcome]:
    numbers = [job.payload.number for job in jobs]
    event.listen(tx.sync_session, "after_commit", lambda _: marks.leave(*numbers), once=True)
    return [Done() for _ in jobs]


async def _work(jobs: Sequence[Job[Work]], tx: AsyncSession) -> Sequence[Outcome]:
    return _mark_the_commit(jobs, tx)


async def _work_long(jobs: Sequence[Job[LongWork]], tx: AsyncSession) -> Sequence[Outcome]:
    await asyncio.sleep(LONG_SECONDS * len(jobs))
    return _mark_the_commit(jobs, tx)


class _Calling:
    def __init__(self, contract: type[Call], gateway: Gateway) -> None:
        self.contract = contract
        self._gateway = gateway

    async def call(self, job: Job[Call]) -> None:
        await self._gateway.charge(UUID(int=job.payload.number), 100, "EUR", "pm_card_visa")

    async def settle(
        self, _: AsyncSession, answered: Sequence[tuple[Job[Call], None]]
    ) -> Sequence[Outcome]:
        return [Done() for _ in answered]


def _handlers(
    gateway: Gateway, mailer: Mailer, webhook: Webhook, channels: Channels | None = None
) -> list[Handler]:
    shipped = _shipped(gateway, mailer, webhook, channels)
    calls: list[Handler] = [_Calling(contract, gateway) for contract in CALLS]
    works: list[Handler] = [DatabaseHandler(Work, _work), DatabaseHandler(LongWork, _work_long)]
    return [*shipped, *works, *calls]


async def _nothing(_tx: AsyncSession, _tick: datetime) -> Iterable[tuple[int, Contract]]:
    return ()


EACH_SECOND = "bench.each-second"
"""A schedule whose ticks are written down and stage nothing."""

schedules.ALL = (*schedules.ALL, Schedule(EACH_SECOND, "* * * * * *", _nothing))
# Before workers.app is imported: it makes a Celery task of each contract there is.
contracts.ALL = (*contracts.ALL, Work, LongWork, *CALLS)
_shipped, flow.handlers = flow.handlers, _handlers

from workers import relay  # noqa: E402 - see above
from workers.app import app  # noqa: E402, F401 - see above; Celery looks for it here

if __name__ == "__main__":
    relay.main()
