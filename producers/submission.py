"""Accepts orders: an accepted one is in Postgres with its job, once, however often it was sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.database import Sessions
from goodsyard.doorbell import Doorbell
from goodsyard.job import JobState
from goodsyard.jobs import states_of
from goodsyard.request_keys import PATIENCE_MS, KeyHolder, KeyInFlightError, holders_of
from producers import order_shapes, problems
from producers.acceptance import Wish, create
from producers.order_reads import read_orders
from producers.order_shapes import Document
from producers.problems import ProblemError
from tasks.contracts import ProcessOrder

PATH = "/v1/orders"
"""What every order hashes as its path: one sent alone and one in a bulk replay each other."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An order that is in Postgres, now or since long."""

    order: Document
    job: Document
    replayed: bool


Verdict: TypeAlias = Accepted | ProblemError


class Submission:
    """Accepts sets of orders, each set of one tenant, one round trip for all that are new."""

    def __init__(self, sessions: Sessions, doorbell: Doorbell) -> None:
        """Create orders through ``sessions`` and tell of their jobs by ``doorbell``."""
        self._sessions = sessions
        self._doorbell = doorbell

    async def accept(self, tenant: int, wishes: Sequence[Wish]) -> dict[str, Verdict]:
        """Accept those orders that can be, each once, and say by key what became of all.

        Args:
            tenant: whose they are.
            wishes: under distinct keys.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres is away or unwilling; what was accepted before that
                (of halves, see below) stays so and is found by its key.
        """
        if not wishes:
            return {}
        try:
            return await self.accept_together(tenant, wishes)
        except (KeyInFlightError, IntegrityError) as error:
            # One of them spoils the set: found by halves, it is alone in the end.
            if len(wishes) > 1:
                half = len(wishes) // 2
                first = await self.accept(tenant, wishes[:half])
                return first | await self.accept(tenant, wishes[half:])
            if isinstance(error, IntegrityError):
                raise
            return {wishes[0].key.key: _in_flight()}

    async def accept_together(
        self, tenant: int, wishes: Sequence[Wish], patience_ms: int = PATIENCE_MS
    ) -> dict[str, Verdict]:
        """Accept those orders that can be, unless one of them spoils it for all.

        Raises:
            KeyInFlightError: an equal request to one of them didn't end in ``patience_ms``.
            sqlalchemy.exc.IntegrityError: one of them is not as the tables have it.
        """
        created = await create(self._sessions, tenant, wishes, patience_ms)
        if created.keys:
            self._doorbell.ring(due=[ProcessOrder.kind])
        verdicts: dict[str, Verdict] = {
            wish.key.key: Accepted(
                order_shapes.new_order(wish.order, created.at),
                order_shapes.job_ref(wish.job_id, JobState.WAITING),
                replayed=False,
            )
            for wish in wishes
            if wish.key.key in created.keys
        }
        others = [wish for wish in wishes if wish.key.key not in created.keys]
        return verdicts | await self._look_up(tenant, others, created.buyers)

    async def _look_up(
        self, tenant: int, wishes: Sequence[Wish], buyers: Collection[UUID]
    ) -> dict[str, Verdict]:
        """Say what there is of orders that weren't created."""
        if not wishes:
            return {}
        async with self._sessions.begin() as tx:
            holders = await holders_of(tx, tenant, [wish.claim for wish in wishes])
            verdicts = await self._replay(tx, tenant, holders)
        for wish in wishes:
            if wish.key.key not in verdicts:
                # A key that was lost and that nobody has was forgotten between the two statements.
                known = wish.order.user_id in buyers
                verdicts[wish.key.key] = (
                    _in_flight() if known else problems.unknown_user(wish.order.user_id)
                )
        return verdicts

    async def _replay(
        self, tx: AsyncSession, tenant: int, held: Mapping[str, KeyHolder]
    ) -> dict[str, Verdict]:
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
            orders = await read_orders(tx, tenant, [order for order, _ in earlier.values()])
            states = await states_of(tx, tenant, [job for _, job in earlier.values()])
            for key, (order, job) in earlier.items():
                # A job that is gone was finished so long ago that its partition was dropped.
                state = states.get(job, JobState.SUCCEEDED)
                verdicts[key] = Accepted(
                    orders[order], order_shapes.job_ref(job, state), replayed=True
                )
        return verdicts


def _in_flight() -> ProblemError:
    return ProblemError(problems.IN_FLIGHT, headers={"Retry-After": "1"})
