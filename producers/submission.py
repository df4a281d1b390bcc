"""Accepts orders: an accepted one is in Postgres with its job, once, whatever was sent how often.

A set of orders takes one transaction of a handful of statements, however large it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.accounts.users import buyers
from commerce.orders import rows
from commerce.orders.rows import NewOrder
from goodsyard import request_keys
from goodsyard.job import JobState, new_id
from goodsyard.jobs import states_of
from goodsyard.request_keys import KeyHolder, KeyInFlightError
from goodsyard.submit import Staged, stage
from producers import order_shapes, problems
from producers.idempotency import RequestKey
from producers.order_reads import read_orders
from producers.order_shapes import Document
from producers.problems import ProblemError
from producers.services import Services
from tasks.contracts import ProcessOrder

PATH = "/v1/orders"
"""What every order hashes as its path: one sent alone and one in a bulk replay each other."""


@dataclass(frozen=True, slots=True)
class Wish:
    """An order somebody wants, under a key."""

    key: RequestKey
    order: NewOrder
    job_id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Accepted:
    """An order that is in Postgres, now or since long."""

    order: Document
    job: Document
    replayed: bool


Verdict: TypeAlias = Accepted | ProblemError


class Submission:
    """Accepts orders of one tenant."""

    def __init__(self, services: Services, tenant: int, trace_context: str | None) -> None:
        """Accept orders of ``tenant``, in the course of a trace if there is one."""
        self._services = services
        self._tenant = tenant
        self._trace_context = trace_context

    async def accept(self, wishes: Sequence[Wish]) -> dict[str, Verdict]:
        """Accept those orders that can be, each once, and say by key what became of all.

        Args:
            wishes: under distinct keys.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres is away or unwilling; what was accepted before that
                (of halves, see below) stays so and is found by its key.
        """
        if not wishes:
            return {}
        try:
            verdicts = await self._accept_together(wishes)
        except (KeyInFlightError, IntegrityError) as error:
            # One of them spoils the set: found by halves, it is alone in the end.
            if len(wishes) > 1:
                half = len(wishes) // 2
                return await self.accept(wishes[:half]) | await self.accept(wishes[half:])
            if isinstance(error, IntegrityError):
                raise
            refusal = ProblemError(problems.IN_FLIGHT, headers={"Retry-After": "1"})
            return {wishes[0].key.key: refusal}
        if any(
            isinstance(verdict, Accepted) and not verdict.replayed for verdict in verdicts.values()
        ):
            self._services.doorbell.ring(due=[ProcessOrder.kind])
        return verdicts

    async def _accept_together(self, wishes: Sequence[Wish]) -> dict[str, Verdict]:
        async with self._services.sessions.begin() as tx:
            claims = [
                wish.key.claim({"order": str(wish.order.id), "job": str(wish.job_id)})
                for wish in wishes
            ]
            holders = await request_keys.claim(tx, self._tenant, claims)
            won = [wish for wish in wishes if holders[wish.key.key].won]
            held = {key: holder for key, holder in holders.items() if not holder.won}
            return await self._create(tx, won) | await self._replay(tx, held)

    async def _create(self, tx: AsyncSession, won: Sequence[Wish]) -> dict[str, Verdict]:
        if not won:
            return {}
        known = await buyers(tx, self._tenant, {wish.order.user_id for wish in won})
        strangers = [wish for wish in won if wish.order.user_id not in known]
        if strangers:
            await request_keys.give_back(tx, self._tenant, [wish.key.key for wish in strangers])
        created = [wish for wish in won if wish.order.user_id in known]
        return await self._insert(tx, created) | {
            wish.key.key: _unknown_user(wish.order.user_id) for wish in strangers
        }

    async def _insert(self, tx: AsyncSession, wishes: Sequence[Wish]) -> dict[str, Verdict]:
        if not wishes:
            return {}
        created_at = await rows.insert(tx, self._tenant, [wish.order for wish in wishes])
        jobs = [
            Staged(
                self._tenant,
                ProcessOrder(order_id=wish.order.id),
                trace_context=self._trace_context,
                id=wish.job_id,
            )
            for wish in wishes
        ]
        await stage(tx, jobs)
        return {
            wish.key.key: Accepted(
                order_shapes.new_order(wish.order, created_at),
                order_shapes.job_ref(wish.job_id, JobState.WAITING),
                replayed=False,
            )
            for wish in wishes
        }

    async def _replay(self, tx: AsyncSession, held: Mapping[str, KeyHolder]) -> dict[str, Verdict]:
        """Answer requests that came before: the same ids, the order and the job as they are now."""
        earlier = {
            key: (UUID(str(holder.resource["order"])), UUID(str(holder.resource["job"])))
            for key, holder in held.items()
            if holder.same_request
        }
        verdicts: dict[str, Verdict] = {
            key: ProblemError(problems.KEY_REUSED) for key in held.keys() - earlier.keys()
        }
        if earlier:
            orders = await read_orders(tx, self._tenant, [order for order, _ in earlier.values()])
            states = await states_of(tx, self._tenant, [job for _, job in earlier.values()])
            for key, (order, job) in earlier.items():
                # A job that is gone was finished so long ago that its partition was dropped.
                state = states.get(job, JobState.SUCCEEDED)
                verdicts[key] = Accepted(
                    orders[order], order_shapes.job_ref(job, state), replayed=True
                )
        return verdicts


def _unknown_user(user_id: UUID) -> ProblemError:
    return problems.validation([{"pointer": "#/user_id", "detail": f"There is no user {user_id}"}])
