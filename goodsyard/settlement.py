"""Writes outcomes down: a job's end, and the jobs it stages, in the transaction of its effect."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import steps
from goodsyard.contracts import Backoff
from goodsyard.database import wait_for_answers
from goodsyard.deaths import Death, OnDeath, unmourned
from goodsyard.job import JobState
from goodsyard.limits import penalise_for
from goodsyard.outcomes import (
    BUSY_SECONDS,
    Cancelled,
    Dead,
    Done,
    Outcome,
    Refused,
    Retry,
    Snooze,
)
from goodsyard.scrub import scrub
from goodsyard.steps import Ends, Held
from goodsyard.submit import INSERT_STAGED, Staged, as_columns

ERROR_LENGTH = 2_000
"""Characters of an error kept; a provider's page of HTML is not worth a row of megabytes."""

_JOB_COLUMNS = (
    "id, tenant, kind, version, priority, run_at, fence, attempts, lost, max_attempts, claimed_by, "
    "subject, parent_id, unique_key, limit_key, trace_context, workflow, payload, created_at"
)

_FINISH = f"""
    gone AS (DELETE FROM goodsyard.job WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING *)
    INSERT INTO goodsyard.job_done ({_JOB_COLUMNS}, state, result, started_at, finished_at)
    SELECT {_JOB_COLUMNS}, 'succeeded', r.result, coalesce(started_at, now()), clock_timestamp()
      FROM gone
      JOIN unnest(CAST(:ids AS uuid[]), CAST(:results AS jsonb[])) AS r(id, result) USING (id)
"""  # noqa: S608 - what is put in is the constant above
_FINISH_ONLY = text(f"WITH {_FINISH}")
_FINISH_AND_STAGE = text(f"WITH staged AS ({INSERT_STAGED}), {_FINISH}")

_CANCEL = text(f"""
    WITH gone AS (DELETE FROM goodsyard.job WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING *)
    INSERT INTO goodsyard.job_done ({_JOB_COLUMNS}, state, error, started_at, finished_at)
    SELECT {_JOB_COLUMNS}, 'cancelled', c.detail, started_at, clock_timestamp()
      FROM gone
      JOIN unnest(CAST(:ids AS uuid[]), CAST(:details AS text[])) AS c(id, detail) USING (id)
""")  # noqa: S608 - what is put in is the constant above

_PUT_BACK = text("""
    WITH failed AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:errors AS text[]),
                             CAST(:waits AS float8[]), CAST(:untils AS timestamptz[]),
                             CAST(:reasons AS text[]), CAST(:snoozes AS bool[]))
            AS f(id, error, wait, until, reason, snooze)),
    moved AS (
        UPDATE goodsyard.job j
           SET attempts = j.attempts + (NOT f.snooze)::int,
               state = CASE WHEN f.reason IS NOT NULL OR
                                 (NOT f.snooze AND j.attempts + 1 >= j.max_attempts)
                            THEN 'dead' ELSE 'waiting' END::goodsyard.job_state,
               reason = CASE WHEN f.reason IS NOT NULL THEN f.reason
                             WHEN NOT f.snooze AND j.attempts + 1 >= j.max_attempts
                             THEN 'attempts' END,
               finished_at = CASE WHEN f.reason IS NOT NULL OR
                                       (NOT f.snooze AND j.attempts + 1 >= j.max_attempts)
                                  THEN now() END,
               run_at = coalesce(f.until, now() + make_interval(secs => f.wait)),
               error = coalesce(f.error, j.error), deadline = NULL, claimed_by = NULL
          FROM failed f
         WHERE j.id = f.id AND j.id = ANY(CAST(:ids AS uuid[]))
           AND CAST(j.state AS text) IN ('dispatched', 'running')
        RETURNING j.id, j.attempts, j.started_at, j.state, f.error,
                  j.tenant, j.kind, j.subject, j.reason),
    noted AS (
        INSERT INTO goodsyard.job_attempt (job_id, attempt, worker, started_at, error)
        SELECT id, attempts, :worker, coalesce(started_at, now()), error
          FROM moved WHERE error IS NOT NULL)
    SELECT state, id, tenant, kind, subject, reason FROM moved
""")


class Ended(NamedTuple):
    """A job with its outcome; the job's row is locked by the transaction that settles it."""

    id: UUID
    tenant: int
    attempts: int
    subject: UUID | None
    trace_context: str | None
    outcome: Outcome
    workflow: UUID | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement changed, for the doorbell and the metrics."""

    states: dict[UUID, JobState]
    due: frozenset[str]


async def settle(
    tx: AsyncSession,
    ended: Sequence[Ended],
    *,
    backoff: Backoff,
    worker: UUID,
    on_death: OnDeath = unmourned,
) -> Settled:
    """Write the outcomes of locked jobs down: one statement for those done, one for the others.

    And one for those called off, if there are any.
    """
    done = [(job, job.outcome) for job in ended if isinstance(job.outcome, Done)]
    called_off = [(job, job.outcome) for job in ended if isinstance(job.outcome, Cancelled)]
    others = [job for job in ended if not isinstance(job.outcome, (Done, Cancelled))]
    states = {job.id: JobState.SUCCEEDED for job, _ in done}
    due: frozenset[str] = frozenset()
    held = await _hold(tx, ended)
    if done:
        due = await _finish(tx, done)
    if called_off:
        await _cancel(tx, called_off)
        states |= {job.id: JobState.CANCELLED for job, _ in called_off}
    if others:
        await wait_for_answers(tx)  # it asks for some
        put_back, deaths = await _put_back(tx, others, backoff, worker)
        states |= put_back
        if deaths:
            await on_death(tx, deaths)
    if held:
        followed = await steps.follow(tx, held, _ends(ended, states))
        due |= followed.due
        states |= dict.fromkeys(followed.called_off, JobState.CANCELLED)
    return Settled(states, due)


async def _hold(tx: AsyncSession, ended: Sequence[Ended]) -> dict[UUID, Held]:
    workflows = {job.workflow for job in ended if job.workflow is not None}
    if not workflows:
        return {}
    await wait_for_answers(tx)
    alone = any(isinstance(job.outcome, (Refused, Cancelled)) for job in ended)
    return await steps.hold(tx, workflows, alone=alone)


def _ends(ended: Sequence[Ended], states: Mapping[UUID, JobState]) -> Ends:
    ends = Ends()
    for job in ended:
        if job.workflow is not None and job.id in states:
            match states[job.id], job.outcome:
                case JobState.SUCCEEDED, _:
                    alike = ends.done
                case JobState.CANCELLED, _:
                    alike = ends.cancelled
                case _, Refused():
                    alike = ends.refused
                case _:
                    alike = ends.others
            alike[job.id] = job.workflow
    return ends


async def _finish(tx: AsyncSession, done: Sequence[tuple[Ended, Done]]) -> frozenset[str]:
    staged = [
        Staged(job.tenant, contract, parent_id=job.id, trace_context=job.trace_context)
        for job, outcome in done
        for contract in outcome.next
    ]
    parameters: dict[str, object] = {
        "ids": [job.id for job, _ in done],
        "results": [
            None if outcome.result is None else orjson.dumps(outcome.result).decode()
            for _, outcome in done
        ],
    }
    if staged:
        await tx.execute(_FINISH_AND_STAGE, parameters | as_columns(staged))
    else:
        await tx.execute(_FINISH_ONLY, parameters)
    return frozenset(job.contract.kind for job in staged)


async def _cancel(tx: AsyncSession, called_off: Sequence[tuple[Ended, Cancelled]]) -> None:
    parameters = {
        "ids": [job.id for job, _ in called_off],
        "details": [_storable(outcome.detail) for _, outcome in called_off],
    }
    await tx.execute(_CANCEL, parameters)


class _Verdict(NamedTuple):
    """A column set of ``_PUT_BACK``; a ``snooze`` spends no attempt."""

    error: str | None = None
    wait: float = 0.0
    until: datetime | None = None
    reason: str | None = None
    snooze: bool = False


def _verdict(outcome: Outcome, backoff: Backoff, failures: int) -> _Verdict:
    match outcome:
        case Retry(error, after):
            # Jitter spreads load, it guards no secret.
            jittered = random.uniform(0, backoff.ceiling(failures))  # noqa: S311
            # As a float even where a whole number was asked for: psycopg sends no mixed lists.
            return _Verdict(error=error, wait=max(float(after or 0), jittered))
        case Snooze(until):
            if isinstance(until, timedelta):
                return _Verdict(wait=until.total_seconds(), snooze=True)
            return _Verdict(until=until, snooze=True)
        case Refused(detail):
            return _Verdict(error=detail, reason="refused")
        case Dead(reason, detail):
            return _Verdict(error=detail, reason=reason)
        case Done() | Cancelled():
            message = "a job that is over is moved away, not put back"
            raise TypeError(message)


async def _put_back(
    tx: AsyncSession, ended: Sequence[Ended], backoff: Backoff, worker: UUID
) -> tuple[dict[UUID, JobState], list[Death]]:
    verdicts = [_verdict(job.outcome, backoff, job.attempts + 1) for job in ended]
    parameters = {
        "ids": [job.id for job in ended],
        "errors": [None if v.error is None else _storable(v.error) for v in verdicts],
        "waits": [v.wait for v in verdicts],
        "untils": [v.until for v in verdicts],
        "reasons": [v.reason for v in verdicts],
        "snoozes": [v.snooze for v in verdicts],
        "worker": worker,
    }
    moved = [
        (JobState(state), Death(*rest)) for state, *rest in await tx.execute(_PUT_BACK, parameters)
    ]
    await _leave_alone(tx, ended, [job for _, job in moved])
    states = {job.id: state for state, job in moved}
    return states, [job for state, job in moved if state is JobState.DEAD]


async def _leave_alone(tx: AsyncSession, ended: Sequence[Ended], moved: Sequence[Death]) -> None:
    """Hold back what would ask a provider that is asked too often already."""
    refused = {
        job.id: BUSY_SECONDS if job.outcome.after is None else job.outcome.after
        for job in ended
        if isinstance(job.outcome, Retry) and job.outcome.busy
    }
    if refused:
        kinds = {job.kind for job in moved if job.id in refused}
        for kind in sorted(kinds):
            await penalise_for(tx, kind, list(refused), max(refused.values()))


def _storable(error: str) -> str:
    """Return what Postgres can keep of an error: no NUL, no half of a surrogate pair, no novel.

    An error that can't be written down would cost its job every attempt to report it.
    """
    kept = scrub(error)[:ERROR_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return kept.encode(errors="replace").decode()
