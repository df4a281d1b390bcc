"""The engine on a test's own database, with two kinds of job whose effects can be counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypedDict, Unpack
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import dispatch, doorbell, jobs
from goodsyard.claims import Delivery
from goodsyard.contracts import Backoff, Contract, Effect, Policy
from goodsyard.database import Sessions
from goodsyard.doorbell import Doorbell
from goodsyard.execution import Executor
from goodsyard.flow import DatabaseHandler, Flow, Handler
from goodsyard.job import Job
from goodsyard.jobs import Attempt, JobView
from goodsyard.outcomes import Done, Outcome
from goodsyard.submit import Staged, stage

TENANT = 1


class Note(Contract):
    """Write a line into the table ``note``."""

    kind: ClassVar[str] = "test.note"
    effect: ClassVar[Effect] = Effect.DATABASE
    policy: ClassVar[Policy] = Policy(queue="orders", max_attempts=3, backoff=Backoff(8, 60))

    line: str = ""
    about: UUID | None = None

    @property
    def subject(self) -> UUID | None:
        """What it is about."""
        return self.about


class Ask(Contract):
    """Ask somebody who keeps no books of ours, and write the answer into ``note``."""

    kind: ClassVar[str] = "test.ask"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    policy: ClassVar[Policy] = Policy(queue="payments", max_attempts=3, backoff=Backoff(8, 60))

    line: str = ""


class AskOnce(Ask):
    """Ask somebody who keeps no key of ours: a second call could do a second harm."""

    kind: ClassVar[str] = "test.ask_once"
    policy: ClassVar[Policy] = Policy(queue="payments", repeatable=False)


# No key: were an effect to happen twice, there would be two rows.
_NEW = "CREATE TABLE IF NOT EXISTS public.note (job uuid NOT NULL, line text NOT NULL)"

_NOTE = text("""
    INSERT INTO public.note
    SELECT * FROM unnest(CAST(:jobs AS uuid[]), CAST(:lines AS text[]))
""")


async def write(tx: AsyncSession, lines: Sequence[tuple[UUID, str]]) -> None:
    """Take effect: a line a job."""
    await tx.execute(
        _NOTE, {"jobs": [job for job, _ in lines], "lines": [line for _, line in lines]}
    )


async def note_all(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
    """Handle ``Note`` as it should be."""
    await write(tx, [(job.id, job.payload.line) for job in chunk])
    return [Done({"noted": job.payload.line}) for job in chunk]


class Asker:
    """Handles ``Ask``: counts its calls, and answers what it was asked unless told otherwise."""

    contract = Ask

    def __init__(self) -> None:
        self.calls: list[UUID] = []
        self.settled: list[int] = []
        """How many answers each settlement wrote down."""

    async def call(self, job: Job[Ask]) -> str:
        """Answer with what was asked."""
        self.calls.append(job.id)
        return job.payload.line

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
    ) -> Sequence[Outcome]:
        """Write the answers down."""
        self.settled.append(len(answered))
        await write(tx, [(job.id, answer) for job, answer in answered])
        return [Done({"answer": answer}) for _, answer in answered]


NOTES = DatabaseHandler(Note, note_all)


class How(TypedDict, total=False):
    """What ``Staged`` takes besides the contract."""

    run_at: datetime
    priority: int
    unique_key: str
    trace_context: str


@dataclass
class Yard:
    """A database, a Redis, and what a test does to the jobs in them."""

    sessions: Sessions
    bell: Doorbell

    def executor(self, *handlers: Handler, worker: UUID | None = None) -> Executor:
        """Return what one worker process runs chunks on; ``NOTES`` alone if nothing is given."""
        given = handlers or (NOTES,)
        flow = Flow([handler.contract for handler in given], given)
        return Executor(flow, self.sessions, self.bell, worker or uuid4())

    async def run(
        self,
        handler: Handler,
        deliveries: Sequence[Delivery],
        *,
        worker: UUID | None = None,
    ) -> None:
        """Run a chunk to its very end on a process of its own."""
        executor = self.executor(handler, worker=worker)
        await executor.run(handler.contract.kind, deliveries)
        await executor.drain()

    async def stage(self, *contracts: Contract, **how: Unpack[How]) -> list[UUID]:
        """Insert jobs and return their ids, which ascend."""
        staged = [Staged(TENANT, contract, **how) for contract in contracts]
        async with self.sessions.begin() as tx:
            await stage(tx, staged)
        return [job.id for job in staged]

    async def dispatch(self, kind: str = Note.kind, most: int = 500) -> list[Delivery]:
        """Dispatch what is due, and return it in the order it was dispatched in."""
        async with self.sessions.begin() as tx:
            return [job.delivery for job in (await dispatch.dispatch(tx, kind, most)).jobs]

    async def deliver(self, *contracts: Contract, **how: Unpack[How]) -> list[Delivery]:
        """Stage jobs of one kind and dispatch them."""
        ids = await self.stage(*contracts, **how)
        fences = dict(await self.dispatch(contracts[0].kind))
        return [(job, fences[job]) for job in ids]

    async def job(self, job_id: UUID) -> JobView:
        """Return a job, live or finished; it must be in exactly one of the two places."""
        async with self.sessions.begin() as tx:
            job = await jobs.read_job(tx, TENANT, job_id)
        assert job is not None, f"there is no job {job_id}"
        return job

    async def states(self, ids: Sequence[UUID]) -> list[str]:
        """Return the states of jobs, in their order."""
        async with self.sessions.begin() as tx:
            states = await jobs.states_of(tx, TENANT, ids)
        return [states[job].value for job in ids]

    async def attempts(self, job_id: UUID) -> list[Attempt]:
        """Return a job's runs that did not succeed."""
        async with self.sessions.begin() as tx:
            return await jobs.attempts_of(tx, job_id)

    async def notes(self) -> list[str]:
        """Return every effect that was ever committed, sorted."""
        return [row.line for row in await self.sql("SELECT line FROM public.note ORDER BY line")]

    async def sql(self, statement: str, **parameters: object) -> list[Any]:  # Any: as selected
        """Run a statement in a transaction of its own, and return its rows if it has any."""
        async with self.sessions.begin() as tx:
            result = await tx.execute(text(statement), parameters)
            return list(result) if result.returns_rows else []  # type: ignore[attr-defined]  # a CursorResult


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 10) -> None:
    """Return as soon as ``condition`` holds.

    Raises:
        AssertionError: it didn't within ``seconds``; says ``what`` was waited for.
    """
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def connect(sessions: Sessions, redis_url: str) -> AsyncIterator[Yard]:
    """Have a yard for a while, in a database that has the table ``note``."""
    client = doorbell.connect(redis_url)
    yard = Yard(sessions, Doorbell(client))
    try:
        yield yard
    finally:
        await yard.bell.close()
        await client.aclose()


@asynccontextmanager
async def open_yard(sessions: Sessions, redis_url: str) -> AsyncIterator[Yard]:
    """Have a yard for a while, in a database that is made one."""
    async with connect(sessions, redis_url) as yard:
        await yard.sql(_NEW)
        yield yard
