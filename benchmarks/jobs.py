"""Two kinds of jobs that cost nothing by themselves, wired into the flow as any new kind would be.

``celery -A benchmarks.jobs worker`` and ``python -m benchmarks.jobs`` are the shipped worker and
relay; that they know two kinds more is all the difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks import marks
from commerce.notifications.channels import Channels
from commerce.notifications.mailer import Mailer
from commerce.payments.gateway import Gateway
from goodsyard.contracts import Contract, Effect, Policy
from goodsyard.flow import DatabaseHandler, Handler
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome
from tasks import contracts, flow
from tasks.webhooks import Webhook

NAP_SECONDS = 0.05


class Noop(Contract):
    """Leave a mark, change nothing: what remains is the engine."""

    kind: ClassVar[str] = "bench.noop"
    effect: ClassVar[Effect] = Effect.DATABASE
    public: ClassVar[bool] = True
    policy: ClassVar[Policy] = Policy(queue="orders")

    number: int


class Nap(Contract):
    """Leave a mark and wait for 50 ms, or longer, as for a provider."""

    kind: ClassVar[str] = "bench.nap"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    public: ClassVar[bool] = True
    policy: ClassVar[Policy] = Policy(queue="payments")

    number: int
    seconds: float = NAP_SECONDS


async def _do_nothing(jobs: Sequence[Job[Noop]], _: AsyncSession) -> Sequence[Outcome]:
    marks.leave(*(job.payload.number for job in jobs))
    return [Done() for _ in jobs]


class _Napping:
    contract = Nap

    async def call(self, job: Job[Nap]) -> None:
        marks.leave(job.payload.number)
        await asyncio.sleep(job.payload.seconds)

    async def settle(
        self, _: AsyncSession, answered: Sequence[tuple[Job[Nap], None]]
    ) -> Sequence[Outcome]:
        return [Done() for _ in answered]


def _handlers(
    gateway: Gateway, mailer: Mailer, webhook: Webhook, channels: Channels | None = None
) -> list[Handler]:
    shipped = _shipped(gateway, mailer, webhook, channels)
    return [*shipped, DatabaseHandler(Noop, _do_nothing), _Napping()]


# Before workers.app is imported: it makes a Celery task of each contract there is.
contracts.ALL = (*contracts.ALL, Noop, Nap)
_shipped, flow.handlers = flow.handlers, _handlers

from workers import relay  # noqa: E402 - see above
from workers.app import app  # noqa: E402, F401 - see above; Celery looks for it here

if __name__ == "__main__":
    relay.main()
