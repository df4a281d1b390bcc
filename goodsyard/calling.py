"""Runs a chunk of an external kind: claim (commit), call with no transaction open, settle (commit).

Calls are settled in groups as they return. An answer that its job's present holder didn't get is
dropped: the holder repeats the call under the same key.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, TypeAlias
from uuid import UUID

import structlog

from goodsyard import claims, turns
from goodsyard.calls_out import CallsOut
from goodsyard.claims import Claimed, Delivery
from goodsyard.database import Sessions
from goodsyard.endings import Endings, describe, merge, unanswered
from goodsyard.failpoints import failpoint
from goodsyard.flow import ExternalHandler
from goodsyard.job import Job
from goodsyard.outcomes import Cancelled, Outcome
from goodsyard.patience import is_outage, patiently
from goodsyard.run import JobCancelledError
from goodsyard.runs import Runs
from goodsyard.turns import Turns

GATHER_SECONDS = 0.25
"""The most that finished calls wait for their neighbours, so that a commit is shared: as long again
as the first of them took, and not once the last is there. A lone job never waits."""

CALL_SECONDS = 20.0
"""The most a provider may take, from the beginning of the call; under the worker's hard time limit
(30 s), so that the verdict on a hanging call is ours, not a killed process."""

_Answered: TypeAlias = tuple[Job[Any], object] | Outcome
"""A job with its provider's answer, or the outcome where there is none."""
_log = structlog.get_logger(__name__)


class Caller:
    """Makes the calls of one worker process, on one event loop."""

    def __init__(self, sessions: Sessions, worker: UUID, endings: Endings, runs: Runs) -> None:
        """Call as the process registered under ``worker``, whose ``endings`` say how it went."""
        self._sessions = sessions
        self._worker = worker
        self._endings = endings
        self._runs = runs
        self._calls = CallsOut()
        self._turns = Turns()
        self._calling: set[asyncio.Task[None]] = set()
        self._leasing = asyncio.Lock()
        self._held: set[UUID] = set()

    async def drain(self) -> None:
        """Wait until every call that is out has been answered, or given up, and settled."""
        await asyncio.gather(*self._calling, return_exceptions=True)
        await self._runs.rest()

    async def run(self, handler: ExternalHandler[Any, Any], deliveries: Sequence[Delivery]) -> int:
        """Claim and call; returns how many were claimed, once there is room for the next chunk.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres stayed away. Nothing was lost: the rows come back
                when their deadlines pass.
        """
        asked_at = time.monotonic()
        claimed = await self._lease(handler, deliveries)
        failpoint("after_claim")
        calls = {asyncio.create_task(self._call(handler, row, asked_at)): row for row in claimed}
        self._calls.add(calls)
        calling = asyncio.create_task(self._settle_as_they_return(handler, calls))
        self._calling.add(calling)
        calling.add_done_callback(self._called)
        # The next chunk may come while this one's calls are out, so that neither waits for the
        # other's provider or database.
        policy = handler.contract.policy
        await self._calls.until_room(policy.chunk if policy.abreast is None else policy.chunk // 2)
        return len(claimed)

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
            claimed = await patiently(lease)
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
            with self._runs.under_way(row.id, row.fence) as run:
                job = row.parse(handler.contract, run)
                if not isinstance(job, Job):
                    return job
                return await self._ask(handler, row, job, start_by)
        except JobCancelledError as error:
            return Cancelled(str(error))
        except TimeoutError:
            silence = f"no answer within {CALL_SECONDS:g} s: it may or may not have happened"
            return unanswered(handler.contract, silence)
        except asyncio.CancelledError as error:
            if _is_being_cancelled():
                raise
            # A client library cancelled the future that several of its callers wait for.
            return unanswered(handler.contract, describe(error))
        except Exception as error:  # noqa: BLE001 - one call's failure is its own, not the chunk's
            _log.warning("job.call_failed", job=str(row.id), exc_info=error)
            return unanswered(handler.contract, describe(error))

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
            await patiently(lambda: self._apply_answers(handler, answers))
        except Exception as error:
            if is_outage(error):
                raise
            by_id = {row.id: (row, answer) for row, answer in answers}
            await self._endings.blame(
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
            outcomes = merge(handler.contract, [answer for _, answer in held], verdicts)
            claimed = [row._replace(**ours[row.id]._asdict()) for row, _ in held]
            settled = await self._endings.settle(tx, handler.contract, claimed, outcomes)
            failpoint("before_commit")
        failpoint("after_commit")
        self._endings.tell(claimed, settled)


async def _in_time(
    handler: ExternalHandler[Any, Any], row: Claimed, job: Job[Any], start_by: float
) -> _Answered:
    """Call, unless its grant has lapsed: the process may have been stopped since it claimed.

    Raises:
        JobCancelledError: it was called off before the call, or the handler has heard so.
    """
    if time.monotonic() > start_by:
        return row.handed_back()
    job.run.check()
    async with asyncio.timeout(CALL_SECONDS):
        return job, await handler.call(job)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
