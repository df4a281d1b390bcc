"""What a chunk costs in statements, commits and Redis commands, however many jobs it carries.

Speed that a test can hold without a clock: where a figure here grows with the number of jobs, a
round trip or a commit a job has crept in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from unittest.mock import patch

import psycopg
import pytest
import redis.asyncio
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.orders.rules import PLENTY, Line
from goodsyard import doorbell, publisher
from goodsyard.flow import DatabaseHandler
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome
from tasks.contracts import ChargePayment, ProcessOrder
from tests.saga import Saga
from tests.yard import Ask, Note, Yard
from workers.broker import set_epoch
from workers.relay import Relay
from workers.sweep import Situation

SIZES = [1, 100]

Cursor: TypeAlias = psycopg.AsyncCursor[Any]  # of whatever rows


@dataclass
class Costs:
    """What Postgres was asked to do."""

    statements: list[str] = field(default_factory=list)
    commits: int = 0


@contextmanager
def counted_costs() -> Iterator[Costs]:
    """Count the statements and commits that anybody sends meanwhile."""
    costs = Costs()
    execute = psycopg.AsyncCursor.execute

    async def counted(cursor: Cursor, statement: Any, *arguments: Any, **more: Any) -> Cursor:  # noqa: ANN401 - as psycopg has it
        costs.statements.append(statement)
        return await execute(cursor, statement, *arguments, **more)

    def on_commit(_: object) -> None:
        costs.commits += 1

    event.listen(Engine, "commit", on_commit)
    with patch.object(psycopg.AsyncCursor, "execute", counted):
        yield costs
    event.remove(Engine, "commit", on_commit)


@asynccontextmanager
async def commands_of(client: redis.asyncio.Redis) -> AsyncIterator[Counter[str]]:
    """Count the commands that the server carries out meanwhile, by name."""
    commands: Counter[str] = Counter()
    await client.config_resetstat()
    yield commands
    stats = await client.info("commandstats")
    commands.update({name.removeprefix("cmdstat_"): seen["calls"] for name, seen in stats.items()})
    for ours in ("config|resetstat", "info"):
        commands.pop(ours, None)


async def leave_alone(jobs: Sequence[Job[Note]], _: AsyncSession) -> Sequence[Outcome]:
    return [Done() for _ in jobs]


class Echo:
    """Asks nobody and writes nothing."""

    contract = Ask

    async def call(self, job: Job[Ask]) -> str:
        return job.payload.line

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[Ask], str]]
    ) -> Sequence[Outcome]:
        return [Done() for _ in answered]


async def order(saga: Saga, size: int) -> None:
    await saga.put_in_stock(CD=size * PLENTY, LP=size * PLENTY)
    for _ in range(size):
        await saga.order(Line("CD", 1, 1_499), Line("LP", 1, 2_499))


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with doorbell.connect(redis_url) as connected:
        yield connected


@pytest.mark.parametrize("size", SIZES)
async def test_a_database_chunk_costs_two_statements_and_a_commit(yard: Yard, size: int) -> None:
    deliveries = await yard.deliver(*[Note()] * size)
    with counted_costs() as costs:
        await yard.run(DatabaseHandler(Note, leave_alone), deliveries)
    assert set(await yard.states([job for job, _ in deliveries])) == {"succeeded"}
    assert (len(costs.statements), costs.commits) == (2, 1)


@pytest.mark.parametrize("size", SIZES)
async def test_an_external_chunk_costs_three_statements_and_two_commits(
    yard: Yard, size: int
) -> None:
    deliveries = await yard.deliver(*[Ask()] * size)
    with counted_costs() as costs:
        await yard.run(Echo(), deliveries)
    assert set(await yard.states([job for job, _ in deliveries])) == {"succeeded"}
    assert (len(costs.statements), costs.commits) == (3, 2)


@pytest.mark.parametrize("size", SIZES)
async def test_staging_jobs_costs_one_statement(yard: Yard, size: int) -> None:
    with counted_costs() as costs:
        await yard.stage(*[Note()] * size)
    assert (len(costs.statements), costs.commits) == (1, 1)


@pytest.mark.parametrize("size", SIZES)
async def test_a_relay_sends_a_chunk_with_one_statement_and_one_command(
    yard: Yard, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("workers.relay.POLL_SECONDS", 600)  # it is woken before it would look
    await set_epoch(client, "now")
    relay = Relay(yard.sessions, client, partial(publisher.publish, client), [Note])
    relay.situation = Situation({"orders": 1}, limited=frozenset(), paused=frozenset())
    async with yard.sessions.committing() as statements:
        await relay.run_once(statements)  # it looks for what is due, and at the queues, ahead
        ids = await yard.stage(*[Note()] * size)
        relay.wake([Note.kind])
        with counted_costs() as costs:
            async with commands_of(client) as commands:
                await relay.run_once(statements)
    assert set(await yard.states(ids)) == {"dispatched"}
    assert len(costs.statements) == 1
    assert commands == {"lpush": 1, "llen": 2, "exists": 1}, "the queue's length, its urgent list's"


@pytest.mark.parametrize("size", SIZES)
async def test_the_end_of_a_chunk_is_told_with_one_command(
    yard: Yard, client: redis.asyncio.Redis, size: int
) -> None:
    deliveries = await yard.deliver(*[Note()] * size)
    async with commands_of(client) as commands:
        await yard.run(DatabaseHandler(Note, leave_alone), deliveries)
        await yard.bell.close()
    assert commands.pop("publish") == 1
    assert commands.keys() <= {"hello", "client|setinfo", "client|maint_notifications"}


@pytest.mark.parametrize("size", SIZES)
async def test_a_chunk_of_orders_costs_seven_statements_beside_the_engines(
    saga: Saga, size: int
) -> None:
    await order(saga, size)
    with counted_costs() as costs:
        await saga.deliver(ProcessOrder.kind)
    assert {await saga.status(order_id) for order_id in saga.orders} == {"reserved"}
    assert costs.commits == 2  # the dispatch's as well
    assert len(costs.statements) == 1 + 2 + 7


@pytest.mark.parametrize("size", SIZES)
async def test_a_chunk_of_charges_costs_nine_statements_beside_the_engines(
    saga: Saga, size: int
) -> None:
    await order(saga, size)
    await saga.deliver(ProcessOrder.kind)
    with counted_costs() as costs:
        await saga.deliver(ChargePayment.kind)
    assert {await saga.status(order_id) for order_id in saga.orders} == {"paid"}
    settlements = costs.commits - 2  # the dispatch's and the lease's
    assert len(costs.statements) == 2 + settlements * (2 + 9)
