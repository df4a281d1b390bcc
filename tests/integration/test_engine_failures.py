"""What fails is tried again, or is dead with its reason, and only its own failure counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import patience
from goodsyard.flow import DatabaseHandler
from goodsyard.job import Job, JobState, new_id
from goodsyard.outcomes import Dead, Done, Outcome, Refused, Retry, Snooze
from tests.yard import Note, Yard, note_all, until, write

NEVER_WAITS = 3.0
"""Seconds that are plenty for a chunk, and less than any lock would be waited for."""
AT_LENGTH = 60.0
"""Seconds that are plenty for a chunk whose connection is ended and made anew."""


def ending(outcome: Outcome) -> DatabaseHandler[Note]:
    """Return a handler without effect, all of whose jobs end like this."""

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        return [outcome] * len(chunk)

    return DatabaseHandler(Note, run)


async def test_a_failure_waits_spends_an_attempt_and_is_recorded(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note())
    worker = new_id()
    await yard.run(ending(Retry("the sea was rough")), [(job, fence)], worker=worker)
    waiting = await yard.job(job)
    assert (waiting.state, waiting.attempts) == (JobState.WAITING, 1)
    (attempt,) = await yard.attempts(job)
    assert (attempt.attempt, attempt.error) == (1, "the sea was rough")
    # Full jitter: anything from no wait at all up to the base of 8 s.
    assert waiting.run_at - attempt.finished_at <= timedelta(seconds=8)
    ((recorded,),) = await yard.sql("SELECT worker FROM goodsyard.job_attempt")
    assert recorded == worker


async def test_the_waits_grow_with_the_failures(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goodsyard.settlement.random.uniform", lambda _least, most: most)
    (job,) = await yard.stage(Note())
    waits = []
    for _ in range(2):
        await yard.sql("UPDATE goodsyard.job SET run_at = now()")
        await yard.run(ending(Retry("no")), await yard.dispatch())
        waits.append((await yard.job(job)).run_at - (await yard.attempts(job))[-1].finished_at)
    assert waits == [timedelta(seconds=8), timedelta(seconds=16)]


async def test_a_wait_that_was_asked_for_is_kept(yard: Yard) -> None:
    """A whole number among fractions, too: psycopg sends no list of mixed types."""
    outcomes = iter([Retry("busy", after=3_600), Retry("busy")])

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        return [next(outcomes) for _ in chunk]

    deliveries = await yard.deliver(Note(), Note())
    await yard.run(DatabaseHandler(Note, run), deliveries)
    long, short = [await yard.job(job) for job, _ in deliveries]
    assert (long.error, short.error) == ("busy", "busy")
    assert long.run_at - short.run_at > timedelta(minutes=59)


async def test_a_job_out_of_attempts_is_dead_and_says_so(yard: Yard) -> None:
    (job,) = await yard.stage(Note())
    for _ in range(Note.policy.max_attempts):
        await yard.sql("UPDATE goodsyard.job SET run_at = now() WHERE state = 'waiting'")
        await yard.run(ending(Retry("no")), await yard.dispatch())
    dead = await yard.job(job)
    assert (dead.state, dead.reason, dead.attempts) == (JobState.DEAD, "attempts", 3)
    assert dead.finished_at is not None
    assert [attempt.attempt for attempt in await yard.attempts(job)] == [1, 2, 3]
    await yard.sql("UPDATE goodsyard.job SET run_at = now()")
    assert await yard.dispatch() == []


async def test_a_snooze_waits_until_then_and_spends_nothing(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(Note())
    until = datetime(2100, 1, 1, tzinfo=UTC)
    await yard.run(ending(Snooze(until)), [(job, fence)])
    waiting = await yard.job(job)
    assert (waiting.state, waiting.attempts, waiting.run_at) == (JobState.WAITING, 0, until)
    assert await yard.attempts(job) == []


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(Refused("never"), "refused"), (Dead("uncertain", "never"), "uncertain")],
)
async def test_a_definite_no_is_dead_at_once_and_keeps_why(
    yard: Yard, outcome: Outcome, reason: str
) -> None:
    ((job, fence),) = await yard.deliver(Note())
    await yard.run(ending(outcome), [(job, fence)])
    dead = await yard.job(job)
    assert (dead.state, dead.reason, dead.error) == (JobState.DEAD, reason, "never")
    assert [attempt.error for attempt in await yard.attempts(job)] == ["never"]


async def test_a_lost_connection_costs_no_attempt_and_doubles_nothing(yard: Yard) -> None:
    runs: list[int] = []

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        outcomes = await note_all(chunk, tx)
        runs.append(len(chunk))
        if len(runs) == 1:
            backend = await tx.scalar(text("SELECT pg_backend_pid()"))
            await yard.sql("SELECT pg_terminate_backend(:pid, 5000)", pid=backend)
        return outcomes

    deliveries = await yard.deliver(Note(line="a"), Note(line="b"))
    await yard.run(DatabaseHandler(Note, run), deliveries)
    assert runs == [2, 2]  # the whole chunk again: nobody in it was to blame
    assert await yard.notes() == ["a", "b"]
    assert [(await yard.job(job)).attempts for job, _ in deliveries] == [0, 0]


RAISE = "DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{}'; END $$"


async def test_a_lost_conflict_costs_no_attempt(yard: Yard) -> None:
    states = iter(["40001", "40P01"])

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        outcomes = await note_all(chunk, tx)
        if state := next(states, None):
            await tx.execute(text(RAISE.format(state)))
        return outcomes

    ((job, fence),) = await yard.deliver(Note(line="x"))
    await yard.run(DatabaseHandler(Note, run), [(job, fence)])
    assert await yard.notes() == ["x"]
    assert (await yard.job(job)).attempts == 0


async def test_an_error_of_its_own_after_a_conflict_is_not_tried_over_and_over(
    yard: Yard,
) -> None:
    states = iter(["40001", "23505"])
    runs: list[str] = []

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        runs.append(next(states, "23505"))
        await tx.execute(text(RAISE.format(runs[-1])))
        return []

    ((job, fence),) = await yard.deliver(Note())
    async with asyncio.timeout(NEVER_WAITS):
        await yard.run(DatabaseHandler(Note, run), [(job, fence)])
    assert runs == ["40001", "23505"]
    assert (await yard.job(job)).attempts == 1


async def test_a_value_postgres_can_never_store_is_the_jobs_failure_not_an_outage(
    yard: Yard,
) -> None:
    """Psycopg refuses a NUL before it is sent: an error without an SQLSTATE, on a live link."""

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        await write(tx, [(job.id, "nul: \0") for job in chunk])
        return [Done()] * len(chunk)

    ((job, fence),) = await yard.deliver(Note())
    async with asyncio.timeout(NEVER_WAITS):
        await yard.run(DatabaseHandler(Note, run), [(job, fence)])
    assert (await yard.job(job)).attempts == 1


async def test_a_handler_that_sits_on_its_transaction_fails_and_not_its_neighbours(
    yard: Yard,
) -> None:
    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        outcomes = await note_all(chunk, tx)
        if any(job.payload.line == "slow" for job in chunk):
            await tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
            backend = await tx.scalar(text("SELECT pg_backend_pid()"))

            async def ended() -> bool:
                alive = "SELECT FROM pg_stat_activity WHERE pid = :pid"
                return not await yard.sql(alive, pid=backend)

            await until(ended, "Postgres to lose its patience")
        return outcomes

    deliveries = await yard.deliver(Note(line="slow"), Note(line="quick"))
    async with asyncio.timeout(AT_LENGTH):
        await yard.run(DatabaseHandler(Note, run), deliveries)
    assert await yard.notes() == ["quick"]
    assert "IdleInTransactionSessionTimeout" in str((await yard.job(deliveries[0][0])).error)


@pytest.mark.parametrize("error", ["nul: \0", "half a pair: \ud800", "x" * 10_000, ""])
async def test_an_error_is_recorded_whatever_is_in_it(yard: Yard, error: str) -> None:
    ((job, fence),) = await yard.deliver(Note())
    async with asyncio.timeout(NEVER_WAITS):
        await yard.run(ending(Retry(error)), [(job, fence)])
    waiting = await yard.job(job)
    assert (waiting.state, waiting.attempts) == (JobState.WAITING, 1)
    (attempt,) = await yard.attempts(job)
    assert attempt.error[:10] == error[:10].replace("\0", "�").replace("\ud800", "?")


async def test_while_postgres_stays_away_a_chunk_is_given_up_and_nothing_is_lost(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.2)

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        await tx.execute(text(RAISE.format("57P01")))
        return []

    deliveries = await yard.deliver(Note())
    with pytest.raises(DBAPIError, match="on purpose"):
        await yard.run(DatabaseHandler(Note, run), deliveries)
    job = await yard.job(deliveries[0][0])
    assert (job.state, job.attempts) == (JobState.DISPATCHED, 0)
