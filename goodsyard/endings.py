"""Writes down how the jobs of a chunk ended, and finds out whose fault it was where that failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import claims, settlement
from goodsyard.claims import Claimed, Delivery
from goodsyard.contracts import Contract
from goodsyard.database import Sessions
from goodsyard.deaths import OnDeath
from goodsyard.doorbell import Doorbell
from goodsyard.job import TERMINAL, Job
from goodsyard.outcomes import UNCERTAIN, Cancelled, Dead, Outcome, Retry, Snooze
from goodsyard.patience import patiently
from goodsyard.settlement import Ended, Settled

_log = structlog.get_logger(__name__)


class OutcomeCountError(Exception):
    """A handler returned more or fewer outcomes than it was given jobs."""


class Endings:
    """What one worker process writes down."""

    def __init__(
        self, sessions: Sessions, doorbell: Doorbell, worker: UUID, on_death: OnDeath
    ) -> None:
        """Write for the process registered under ``worker``."""
        self._sessions = sessions
        self._doorbell = doorbell
        self._worker = worker
        self._on_death = on_death

    async def settle(
        self,
        tx: AsyncSession,
        contract: type[Contract],
        claimed: Sequence[Claimed],
        outcomes: Sequence[Outcome],
    ) -> Settled:
        """Write the outcomes of jobs down that ``tx`` has locked; the caller commits and tells."""
        ended = [
            Ended(
                row.id,
                row.tenant,
                row.attempts,
                row.subject,
                row.trace_context,
                _final(outcome) if row.cancel_requested else outcome,
                row.workflow,
            )
            for row, outcome in zip(claimed, outcomes, strict=True)
        ]
        return await settlement.settle(
            tx,
            ended,
            backoff=contract.policy.backoff,
            worker=self._worker,
            on_death=self._on_death,
        )

    def tell(self, claimed: Sequence[Claimed], settled: Settled) -> None:
        """Ring, after the commit, for what is due now and for what has ended."""
        ended = [row for row in claimed if settled.states.get(row.id) in TERMINAL]
        self._doorbell.ring(
            due=settled.due,
            changed=[
                changed for row in ended for changed in (row.id, row.subject) if changed is not None
            ],
        )

    async def blame(
        self,
        deliveries: Sequence[Delivery],
        error: Exception,
        run: Callable[[Sequence[Delivery]], Awaitable[None]],
        contract: type[Contract],
    ) -> None:
        """Find out whose fault it was: each job again, alone; one that was alone has failed."""
        if len(deliveries) > 1:
            _log.warning("chunk.split", kind=contract.kind, jobs=len(deliveries), exc_info=error)
            for delivery in deliveries:
                await run([delivery])
            return
        _log.warning("job.failed", kind=contract.kind, job=str(deliveries[0][0]), exc_info=error)
        await patiently(lambda: self._report(deliveries, error, contract))

    async def _report(
        self, deliveries: Sequence[Delivery], error: Exception, contract: type[Contract]
    ) -> None:
        async with self._sessions.begin() as tx:
            held = await claims.lock_held(tx, deliveries, worker=self._worker)
            # What failed may be the settlement of a call that did happen.
            outcomes = [unanswered(contract, describe(error))] * len(held)
            settled = await self.settle(tx, contract, held, outcomes)
        self.tell(held, settled)


def merge(
    contract: type[Contract],
    decided: Sequence[Outcome | Job[Any] | tuple[Job[Any], object]],
    verdicts: Sequence[Outcome],
) -> list[Outcome]:
    """Put the handler's verdicts in the places of the jobs it was asked about.

    Raises:
        OutcomeCountError: there aren't as many verdicts as places.
    """
    asked = [item for item in decided if isinstance(item, (Job, tuple))]
    if len(verdicts) != len(asked):
        message = f"{contract.kind} owed {len(asked)} outcomes, one a job, and gave {len(verdicts)}"
        raise OutcomeCountError(message)
    following = iter(verdicts)
    return [next(following) if isinstance(item, (Job, tuple)) else item for item in decided]


def unanswered(contract: type[Contract], error: str) -> Outcome:
    """Return how a job ends whose call may or may not have happened."""
    return Retry(error) if contract.policy.repeatable else Dead(UNCERTAIN, error)


def describe(error: BaseException) -> str:
    """Return an error as a job keeps it."""
    return f"{type(error).__name__}: {error}"


def _final(outcome: Outcome) -> Outcome:
    """Return how a job ends that was called off: it takes effect now or never, and waits no more.

    What is done is done, and what may have happened (``Dead``) is still for a person.
    """
    match outcome:
        case Retry(error):
            return Cancelled(f"called off, and its last try failed: {error}")
        case Snooze():
            return Cancelled("called off before it was tried again")
        case _:
            return outcome
