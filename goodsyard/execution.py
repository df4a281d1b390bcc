"""Runs a delivered chunk so that each job in it takes effect exactly once, or is put back.

A database chunk is one transaction: claim, effect, end and next jobs. An external chunk is three
steps (``goodsyard.calling``). Whatever line is the last one executed, the rows say what still has
to happen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from goodsyard import claims
from goodsyard.calling import Caller
from goodsyard.claims import Claimed, Delivery
from goodsyard.contracts import Contract
from goodsyard.database import Sessions
from goodsyard.doorbell import Doorbell
from goodsyard.endings import Endings, merge
from goodsyard.failpoints import failpoint
from goodsyard.flow import DatabaseHandler, Flow
from goodsyard.job import Job
from goodsyard.outcomes import Outcome
from goodsyard.patience import is_outage, patiently
from goodsyard.runs import Runs


class Executor:
    """Runs chunks of one worker process, on one event loop."""

    def __init__(self, flow: Flow, sessions: Sessions, doorbell: Doorbell, worker: UUID) -> None:
        """Run the handlers of ``flow`` as the process registered under ``worker``."""
        self._flow = flow
        self._sessions = sessions
        self._endings = Endings(sessions, doorbell, worker, flow.on_death)
        self._caller = Caller(sessions, worker, self._endings, Runs(sessions, doorbell))
        self._stale = 0

    async def drain(self) -> None:
        """Wait until every call that is out has been answered, or given up, and settled."""
        await self._caller.drain()

    def take_stale(self) -> int:
        """Return how many deliveries found no job that waits for them, since the last time."""
        stale, self._stale = self._stale, 0
        return stale

    async def run(self, kind: str, deliveries: Sequence[Delivery]) -> None:
        """Run a chunk; returns when there is room for the next.

        A database chunk is over by then. Of an external one, the last calls may still be out; they
        are settled in the background, and ``drain`` waits for them.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres stayed away. Nothing was lost: the rows come back
                when their deadlines pass.
        """
        handler = self._flow.handler(kind)
        if isinstance(handler, DatabaseHandler):
            await self._run_chunk(handler, deliveries)
        else:
            claimed = await self._caller.run(handler, deliveries)
            self._stale += len(deliveries) - claimed  # what is taken meanwhile isn't counted again

    async def _run_chunk(
        self, handler: DatabaseHandler[Any], deliveries: Sequence[Delivery]
    ) -> None:
        try:
            await patiently(lambda: self._apply(handler, deliveries))
        except Exception as error:
            if is_outage(error):
                raise
            await self._endings.blame(
                deliveries, error, lambda one: self._run_chunk(handler, one), handler.contract
            )

    async def _apply(self, handler: DatabaseHandler[Any], deliveries: Sequence[Delivery]) -> None:
        async with self._sessions.begin() as tx:
            claimed = await claims.lock_dispatched(tx, handler.contract.kind, deliveries)
            if not claimed:
                self._stale += len(deliveries)
                return
            failpoint("after_claim")
            outcomes = await _decide(claimed, handler.contract, lambda jobs: handler.run(jobs, tx))
            settled = await self._endings.settle(tx, handler.contract, claimed, outcomes)
            failpoint("before_commit")
        failpoint("after_commit")
        self._stale += len(deliveries) - len(claimed)
        self._endings.tell(claimed, settled)


async def _decide(
    claimed: Sequence[Claimed],
    contract: type[Contract],
    run: Callable[[Sequence[Job[Any]]], Awaitable[Sequence[Outcome]]],
) -> list[Outcome]:
    """Run the handler over what parses; what doesn't has its outcome already."""
    parsed = [row.parse(contract) for row in claimed]
    jobs = [job for job in parsed if isinstance(job, Job)]
    return merge(contract, parsed, await run(jobs) if jobs else ())
