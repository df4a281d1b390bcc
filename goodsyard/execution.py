"""Runs a delivered chunk so that each job in it takes effect exactly once, or is put back.

A database chunk is one transaction: claim, effect, end and next jobs. An external chunk is three
steps: claim (commit), call the provider with no transaction open, settle (commit). Whatever line is
the last one executed, the rows say what still has to happen.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import claims, settlement, turns
from goodsyard.calls_out import CallsOut
from goodsyard.claims import Claimed, Delivery
from goodsyard.contracts import Contract
from goodsyard.database import Sessions
from goodsyard.doorbell import Doorbell
from goodsyard.failpoints import failpoint
from goodsyard.flow import DatabaseHandler, ExternalHandler, Flow
from goodsyard.job import TERMINAL, Job
from goodsyard.outcomes import UNCERTAIN, Dead, Outcome, Retry
from goodsyard.settlement import Ended, Settled
from goodsyard.turns import Turns

GATHER_SECONDS = 0.25
"""The most that finished calls wait for their neighbours, so that a commit is shared: as long again
as the first of them took, and not once the last is there. A lone job never waits."""

CALL_SECONDS = 20.0
"""The most a provider may take, from the beginning of the call; under the worker's hard time limit
(30 s), so that the verdict on a hanging call is ours, not a killed process."""

PATIENCE_SECONDS = 20.0
"""How long a chunk is tried again while Postgres is away: a restart costs no attempt."""

CONFLICT_TRIES = 3
"""How often a transaction that lost a conflict is run before it counts as failed."""

# serialization_failure, deadlock_detected, lock_not_available
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
# admin_shutdown, crash_shutdown, cannot_connect_now; and the classes of connection exceptions and
# of insufficient resources. Not the timeouts of an idle session or a transaction: whoever holds one
# open that long is the one to blame.
_OUTAGES = ("57P01", "57P02", "57P03", "08", "53")

T = TypeVar("T")
_Answered: TypeAlias = tuple[Job[Any], object] | Outcome
"""A job with its provider's answer, or the outcome where there is none."""
_log = structlog.get_logger(__name__)


class OutcomeCountError(Exception):
    """A handler returned more or fewer outcomes than it was given jobs."""


def is_outage(error: BaseException) -> bool:
    """Whether Postgres was away (or sent us away), so that no job is to blame."""
    if not isinstance(error, DBAPIError):
        return False
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state.startswith(_OUTAGES)
    # libpq's own errors carry none: the connection broke or was never made. Nor do psycopg's, but a
    # value that it can't send (a NUL in a text) is a DataError, and would never get better.
    return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))


def _is_conflict(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _CONFLICTS


class Executor:
    """Runs chunks of one worker process, on one event loop."""

    def __init__(self, flow: Flow, sessions: Sessions, doorbell: Doorbell, worker: UUID) -> None:
        """Run the handlers of ``flow`` as the process registered under ``worker``."""
        self._flow = flow
        self._sessions = sessions
        self._doorbell = doorbell
        self._worker = worker
        self._calls = CallsOut()
        self._turns = Turns()
        self._calling: set[asyncio.Task[None]] = set()
        self._leasing = asyncio.Lock()
        self._held: set[UUID] = set()
        self._stale = 0

    async def drain(self) -> None:
        """Wait until every call that is out has been answered, or given up, and settled."""
        await asyncio.gather(*self._calling, return_exceptions=True)

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
            await self._run_database(handler, deliveries)
        else:
            await self._run_external(handler, deliveries)

    # Database kinds

    async def _run_database(
        self, handler: DatabaseHandler[Any], deliveries: Sequence[Delivery]
    ) -> None:
        try:
            await self._patiently(lambda: self._apply(handler, deliveries))
        except Exception as error:
            if is_outage(error):
                raise
            await self._alone_or_failed(
                deliveries, error, lambda one: self._run_database(handler, one), handler.contract
            )

    async def _apply(self, handler: DatabaseHandler[Any], deliveries: Sequence[Delivery]) -> None:
        async with self._sessions.begin() as tx:
            claimed = await claims.lock_dispatched(tx, handler.contract.kind, deliveries)
            if not claimed:
                self._stale += len(deliveries)
                return
            failpoint("after_claim")
            outcomes = await _decide(claimed, handler.contract, lambda jobs: handler.run(jobs, tx))
            settled = await self._settle(tx, handler.contract, claimed, outcomes)
            failpoint("before_commit")
        failpoint("after_commit")
        self._stale += len(deliveries) - len(claimed)
        self._tell(claimed, settled)

    # External kinds

    async def _run_external(
        self, handler: ExternalHandler[Any, Any], deliveries: Sequence[Delivery]
    ) -> None:
        asked_at = time.monotonic()
        claimed = await self._lease(handler, deliveries)
        failpoint("after_claim")
        self._stale += len(deliveries) - len(claimed)
        calls = {asyncio.create_task(self._call(handler, row, asked_at)): row for row in claimed}
        self._calls.add(calls)
        calling = asyncio.create_task(self._settle_as_they_return(handler, calls))
        self._calling.add(calling)
        calling.add_done_callback(self._called)
        # The next chunk may come while this one's calls are out, so that neither waits for the
        # other's provider or database.
        policy = handler.contract.policy
        await self._calls.until_room(policy.chunk if policy.abreast is None else policy.chunk // 2)

    def _called(self, calling: asyncio.Task[None]) -> None:
        self._calling.discard(calling)
        if not calling.cancelled() and (error := calling.exception()) is not None:
            # Postgres stayed away: the answers are lost, not the effect. The lease ends, and the
            # next holder repeats the calls under the same keys.
            _log.error("answers.not_written", exc_info=error)

    async def _settle_as_they_return(
        self, handler: ExternalHandler[Any, Any], rows: Mapping[asyncio.Task[_Answered], Claimed]
    ) -> None:
        loop, calls = asyncio.get_running_loop(), set(rows)
        began = loop.time()
        try:
            while calls:
                finished, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                if calls:
                    took = loop.time() - began
                    more, calls = await asyncio.wait(calls, timeout=min(took, GATHER_SECONDS))
                    finished |= more
                failpoint("before_settle")
                await self._settle_answers(
                    handler, [(rows[call], call.result()) for call in finished]
                )
        finally:
            # Nobody is left to write their answers down: what hasn't begun must not begin.
            for call in calls:
                call.cancel()
        self._held.difference_update(row.id for row in rows.values())

    async def _lease(
        self, handler: ExternalHandler[Any, Any], deliveries: Sequence[Delivery]
    ) -> list[Claimed]:
        contract, tries = handler.contract, count()

        async def lease() -> list[Claimed]:
            async with self._sessions.begin() as tx:
                return await claims.lease(
                    tx,
                    contract.kind,
                    deliveries,
                    worker=self._worker,
                    seconds=contract.policy.lease,
                    again=next(tries) > 0,
                    known=self._held,
                )

        # One at a time: between a commit and its entry in the set, a lease is known to nobody.
        async with self._leasing:
            claimed = await self._patiently(lease)
            self._held.update(row.id for row in claimed)
        return claimed

    async def _call(
        self, handler: ExternalHandler[Any, Any], row: Claimed, asked_at: float
    ) -> _Answered:
        """Return the provider's answer, or the outcome where there is none; never raises.

        Args:
            handler: whose call it is.
            row: the job.
            asked_at: a moment before the job was claimed, by the process's own clock.
        """
        start_by = math.inf if row.start_in is None else asked_at + row.start_in
        try:
            job = row.parse(handler.contract)
            if not isinstance(job, Job):
                return job
            return await self._ask(handler, row, job, start_by)
        except TimeoutError:
            silence = f"no answer within {CALL_SECONDS:g} s: it may or may not have happened"
            return _unanswered(handler.contract, silence)
        except asyncio.CancelledError as error:
            if _is_being_cancelled():
                raise
            # A client library cancelled the future that several of its callers wait for.
            return _unanswered(handler.contract, _describe(error))
        except Exception as error:  # noqa: BLE001 - one call's failure is its own, not the chunk's
            _log.warning("job.call_failed", job=str(row.id), exc_info=error)
            return _unanswered(handler.contract, _describe(error))

    async def _ask(
        self, handler: ExternalHandler[Any, Any], row: Claimed, job: Job[Any], start_by: float
    ) -> _Answered:
        kind, abreast = handler.contract.kind, handler.contract.policy.abreast
        if abreast is None:
            return await _in_time(handler, row, job, start_by)
        async with self._turns.take(kind, abreast, turns.TURN_SECONDS) as is_ours:
            return await _in_time(handler, row, job, start_by) if is_ours else row.handed_back()

    async def _settle_answers(
        self,
        handler: ExternalHandler[Any, Any],
        answers: Sequence[tuple[Claimed, _Answered]],
    ) -> None:
        try:
            await self._patiently(lambda: self._apply_answers(handler, answers))
        except Exception as error:
            if is_outage(error):
                raise
            by_id = {row.id: (row, answer) for row, answer in answers}
            await self._alone_or_failed(
                [(row.id, row.fence) for row, _ in answers],
                error,
                lambda one: self._settle_answers(handler, [by_id[job] for job, _ in one]),
                handler.contract,
            )

    async def _apply_answers(
        self,
        handler: ExternalHandler[Any, Any],
        answers: Sequence[tuple[Claimed, _Answered]],
    ) -> None:
        async with self._sessions.begin() as tx:
            ours = await claims.lock_running(tx, [(row.id, row.fence) for row, _ in answers])
            held = sorted(
                ((row, answer) for row, answer in answers if row.id in ours),
                key=lambda pair: pair[0].id,
            )
            if not held:
                return
            answered = [answer for _, answer in held if isinstance(answer, tuple)]
            verdicts = await handler.settle(tx, answered) if answered else ()
            outcomes = _merge(handler.contract, [answer for _, answer in held], verdicts)
            # Somebody may have been told to wait for it since it was claimed.
            claimed = [row._replace(workflow=ours[row.id]) for row, _ in held]
            settled = await self._settle(tx, handler.contract, claimed, outcomes)
            failpoint("before_commit")
        failpoint("after_commit")
        self._tell(claimed, settled)

    # Both

    async def _settle(
        self,
        tx: AsyncSession,
        contract: type[Contract],
        claimed: Sequence[Claimed],
        outcomes: Sequence[Outcome],
    ) -> Settled:
        ended = [
            Ended(
                row.id,
                row.tenant,
                row.attempts,
                row.subject,
                row.trace_context,
                outcome,
                row.workflow,
            )
            for row, outcome in zip(claimed, outcomes, strict=True)
        ]
        return await settlement.settle(
            tx,
            ended,
            backoff=contract.policy.backoff,
            worker=self._worker,
            on_death=self._flow.on_death,
        )

    def _tell(self, claimed: Sequence[Claimed], settled: Settled) -> None:
        ended = [row for row in claimed if settled.states.get(row.id) in TERMINAL]
        self._doorbell.ring(
            due=settled.due,
            changed=[
                changed for row in ended for changed in (row.id, row.subject) if changed is not None
            ],
        )

    async def _alone_or_failed(
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
        await self._patiently(lambda: self._report(deliveries, error, contract))

    async def _report(
        self, deliveries: Sequence[Delivery], error: Exception, contract: type[Contract]
    ) -> None:
        async with self._sessions.begin() as tx:
            held = await claims.lock_held(tx, deliveries, worker=self._worker)
            # What failed may be the settlement of a call that did happen.
            outcomes = [_unanswered(contract, _describe(error))] * len(held)
            settled = await self._settle(tx, contract, held, outcomes)
        self._tell(held, settled)

    async def _patiently(self, transaction: Callable[[], Awaitable[T]]) -> T:
        """Run a transaction, whole, again while Postgres is away or others win the conflict.

        A commit whose answer was lost resolves itself: the rows it ended no longer match.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECONDS
        wait, conflicts = 0.05, 0
        while True:
            try:
                return await transaction()
            except DBAPIError as error:
                lost_conflict = _is_conflict(error)
                conflicts += lost_conflict
                again = is_outage(error) or (lost_conflict and conflicts < CONFLICT_TRIES)
                if not again or loop.time() + wait > until:
                    raise
                _log.info("postgres.again", error=str(error.orig), wait_seconds=wait)
            await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter, no secret
            wait = min(wait * 2, 2.0)


async def _in_time(
    handler: ExternalHandler[Any, Any], row: Claimed, job: Job[Any], start_by: float
) -> _Answered:
    """Call, unless its grant has lapsed: the process may have been stopped since it claimed."""
    if time.monotonic() > start_by:
        return row.handed_back()
    async with asyncio.timeout(CALL_SECONDS):
        return job, await handler.call(job)


async def _decide(
    claimed: Sequence[Claimed],
    contract: type[Contract],
    run: Callable[[Sequence[Job[Any]]], Awaitable[Sequence[Outcome]]],
) -> list[Outcome]:
    """Run the handler over what parses; what doesn't has its outcome already."""
    parsed = [row.parse(contract) for row in claimed]
    jobs = [job for job in parsed if isinstance(job, Job)]
    return _merge(contract, parsed, await run(jobs) if jobs else ())


def _merge(
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


def _unanswered(contract: type[Contract], error: str) -> Outcome:
    return Retry(error) if contract.policy.repeatable else Dead(UNCERTAIN, error)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
