"""What a running job says reaches Redis and no table, and never what an earlier run of it said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import redis.asyncio

from goodsyard import doorbell, progress, runs
from goodsyard.breaker import Breaker
from goodsyard.doorbell import Doorbell
from goodsyard.job import Job
from goodsyard.progress import PROGRESS, Progress, ProgressReader
from tests.askers import PATIENCE, Slow, called
from tests.integration.test_costs import commands_of, counted_costs
from tests.yard import Ask, Asker, Yard, until


class Talker(Slow):
    """Says something whenever it is asked to, and answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job[Ask]] = []

    async def call(self, job: Job[Ask]) -> str:
        """Keep the job in hand."""
        self.jobs.append(job)
        return await super().call(job)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with doorbell.connect(redis_url) as opened:
        yield opened


@asynccontextmanager
async def talking(yard: Yard, jobs: int = 1) -> AsyncIterator[tuple[Talker, list[Job[Ask]]]]:
    """Have calls out that say what the test wants, until the end of the block."""
    talker = Talker()
    deliveries = await yard.deliver(*[Ask()] * jobs)
    running = asyncio.create_task(yard.run(talker, deliveries))
    await until(lambda: called(talker, jobs), "the calls")
    try:
        yield talker, talker.jobs
    finally:
        talker.may_answer.set()
        await running


async def said(client: redis.asyncio.Redis, job: UUID, fence: int = 1) -> Progress | None:
    return await ProgressReader(client, Breaker("tests")).read(job, fence)


async def hears(client: redis.asyncio.Redis, job: UUID, fraction: float) -> None:
    """Return when Redis has this word of a job."""

    async def has_it() -> bool:
        word = await said(client, job)
        return word is not None and word.fraction == fraction

    await until(has_it, f"the word {fraction}")


async def test_a_word_of_a_running_job_is_kept_and_told(
    yard: Yard, client: redis.asyncio.Redis
) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe(PROGRESS)
        async with talking(yard) as (_, (job,)):
            job.run.progress(0.4, "two of five")
            await hears(client, job.id, 0.4)
            word = await said(client, job.id)
            assert word is not None
            assert (word.text, word.fence) == ("two of five", 1)
            assert 0 < await client.ttl(f"goodsyard:progress:{job.id}") <= progress.TTL_SECONDS
            async with asyncio.timeout(PATIENCE):
                while (message := await subscription.get_message(timeout=PATIENCE)) is None:
                    pass
            assert progress.heard(message["data"]) == [(job.id, word)]


async def test_however_much_is_said_it_is_one_round_trip_a_while_and_no_statement(
    yard: Yard, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LISTEN_SECONDS", 60)
    async with talking(yard, 50) as (_, jobs), commands_of(client) as commands:
        with counted_costs() as costs:
            for step in range(1_001):
                for job in jobs:
                    job.run.progress(step / 1_000)
            began = time.monotonic()
            for job in jobs:
                await hears(client, job.id, 1.0)
            rounds = 1 + (time.monotonic() - began) // runs.SAY_SECONDS
        assert costs.statements == []
        assert costs.commits == 0
    assert commands["publish"] <= rounds
    assert commands["set"] <= rounds * len(jobs)


async def test_what_was_said_is_not_said_again(
    yard: Yard, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SAY_SECONDS", 0.01)
    async with talking(yard, 2) as (_, (first, second)):
        first.run.progress(0.1)
        await hears(client, first.id, 0.1)
        await client.delete(f"goodsyard:progress:{first.id}")
        second.run.progress(0.9)
        await hears(client, second.id, 0.9)
        assert await said(client, first.id) is None


async def test_an_earlier_runs_word_is_not_the_present_ones(
    yard: Yard, client: redis.asyncio.Redis
) -> None:
    async with talking(yard) as (_, (job,)):
        job.run.progress(0.9)
        await hears(client, job.id, 0.9)
        assert await said(client, job.id, fence=2) is None


async def test_a_word_can_hold_whatever_a_handler_comes_across(
    yard: Yard, client: redis.asyncio.Redis
) -> None:
    async with talking(yard, 2) as (_, (first, second)):
        first.run.progress(0.1, "half a pair: \ud800, and \0")
        second.run.progress(0.1, "card 4242 4242 4242 4242")
        await hears(client, first.id, 0.1)
        await hears(client, second.id, 0.1)
        kept = await said(client, second.id)
        assert kept is not None
        assert kept.text == "card …"


async def test_without_redis_a_job_talks_to_nobody_and_runs_as_ever(yard: Yard) -> None:
    class Chatty(Asker):
        async def call(self, job: Job[Ask]) -> str:
            for step in range(1_000):
                job.run.progress(step / 1_000)
            await yard.sql("SELECT pg_sleep(0.5)")  # so that its words are tried
            return await super().call(job)

    async with doorbell.connect("redis://127.0.0.1:1/0") as nowhere:
        away = Yard(yard.sessions, Doorbell(nowhere))
        (delivery,) = await yard.deliver(Ask(line="done"))
        async with asyncio.timeout(PATIENCE):
            await away.run(Chatty(), [delivery])
    assert await yard.notes() == ["done"]
    assert await yard.attempts(delivery[0]) == []


async def test_a_word_that_redis_missed_is_told_once_it_is_back(
    yard: Yard, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = progress.say
    tried = asyncio.Event()

    async def away(_client: redis.asyncio.Redis, _words: object) -> None:
        tried.set()
        raise redis.ConnectionError

    monkeypatch.setattr(progress, "say", away)
    monkeypatch.setattr("goodsyard.breaker.PAUSE_SECONDS", 0.05)
    async with talking(yard) as (_, (job,)):
        job.run.progress(0.4)
        await tried.wait()
        monkeypatch.setattr(progress, "say", told)
        await hears(client, job.id, 0.4)


async def test_calls_that_are_over_soon_ask_nobody_whether_they_were_called_off(
    yard: Yard,
) -> None:
    deliveries = await yard.deliver(*[Ask()] * 100)
    with counted_costs() as costs:
        await yard.run(Asker(), deliveries)
    assert [one for one in costs.statements if "cancel_requested\n" in str(one)] == []
