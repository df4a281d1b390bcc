"""Submits jobs from Python: once a call has returned, its jobs are rows that nothing can lose.

Where a job must exist exactly if some rows of the caller's do, use ``goodsyard.submit.stage`` in
the caller's own transaction instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from goodsyard.contracts import Contract
from goodsyard.database import Sessions
from goodsyard.doorbell import Doorbell
from goodsyard.express import Express
from goodsyard.shared_runs import stage_cached
from goodsyard.submit import DEFAULT_PRIORITY, ROWS, Staged, stage


class Batch:
    """Jobs to be submitted together: all of them or none."""

    def __init__(self, tenant: int) -> None:
        """Begin an empty batch of ``tenant``'s."""
        self._tenant = tenant
        self.staged: list[Staged] = []

    def add(
        self,
        contract: Contract,
        *,
        run_at: datetime | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> UUID:
        """Add a job and return its id; it is accepted when the batch is.

        Args:
            contract: what to do.
            run_at: when it is due; ``None`` is at once.
            priority: 0 is first, 9 last.
        """
        job = Staged(self._tenant, contract, run_at=run_at, priority=priority)
        self.staged.append(job)
        return job.id


class Producer:
    """Submits jobs of one tenant."""

    def __init__(
        self, sessions: Sessions, bell: Doorbell, tenant: int, lane: Express | None = None
    ) -> None:
        """Submit through ``sessions``, and wake relays up with ``bell``.

        With a ``lane``, which has to be running, a lone job is sent without waiting for a relay.
        """
        self._sessions = sessions
        self._bell = bell
        self._tenant = tenant
        self._lane = lane

    async def submit(self, contract: Contract) -> UUID:
        """Submit one job, due at once, and return its id, or that of the job that stands for it.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres is away; the job was not accepted, unless it was
                the answer to the commit that was lost. Give jobs that must not be doubled a
                ``unique_key`` (``goodsyard.submit.stage_unique``).
        """
        job = Staged(self._tenant, contract)
        if contract.policy.cache is not None:
            async with self._sessions.begin() as tx:
                shared = await stage_cached(tx, job)
            self._bell.ring(due=[contract.kind])
            return shared.job
        lane = self._lane
        if lane is None or not lane.takes(job):
            await self._accept([job])
        elif not await lane.accept(job):
            self._bell.ring(due=[contract.kind])
        return job.id

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Batch]:
        """Collect jobs and, at the end of the block, submit them with one commit.

        Raises:
            sqlalchemy.exc.DBAPIError: as above, of all of them. An exception from within the block
                submits nothing.
        """
        batch = Batch(self._tenant)
        yield batch
        await self._accept(batch.staged)

    async def _accept(self, jobs: Sequence[Staged]) -> None:
        async with self._sessions.begin() as tx:
            for first in range(0, len(jobs), ROWS):
                await stage(tx, jobs[first : first + ROWS])
        self._bell.ring(due={job.contract.kind for job in jobs})
