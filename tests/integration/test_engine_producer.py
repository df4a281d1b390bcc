"""What is submitted from Python is accepted whole, and relays hear of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import redis.asyncio

from goodsyard import doorbell
from goodsyard.producer import Producer
from goodsyard.submit import ROWS
from tests.yard import NOTES, TENANT, Ask, Note, Yard


@pytest.fixture
def producer(yard: Yard) -> Producer:
    return Producer(yard.sessions, yard.bell, TENANT)


async def test_a_submitted_job_runs(yard: Yard, producer: Producer) -> None:
    job = await producer.submit(Note(line="once"))
    await yard.run(NOTES, await yard.dispatch())
    assert (await yard.states([job]), await yard.notes()) == (["succeeded"], ["once"])


async def test_a_batch_of_any_size_is_submitted_whole(yard: Yard, producer: Producer) -> None:
    async with producer.batch() as batch:
        ids = [batch.add(Note(line=str(number))) for number in range(ROWS + 1)]
    ((count,),) = await yard.sql("SELECT count(*) FROM goodsyard.job WHERE state = 'waiting'")
    assert count == len(set(ids)) == ROWS + 1


async def test_a_batch_that_fails_while_it_is_collected_submits_nothing(
    yard: Yard, producer: Producer
) -> None:
    with suppress(LookupError):
        async with producer.batch() as batch:
            batch.add(Note())
            raise LookupError
    assert await yard.dispatch() == []


async def test_the_jobs_of_a_batch_keep_their_times_and_priorities(
    yard: Yard, producer: Producer
) -> None:
    async with producer.batch() as batch:
        last = batch.add(Note(), priority=9)
        batch.add(Note(), run_at=datetime.now(UTC) + timedelta(hours=1))
        first = batch.add(Note(), priority=0)
    assert [job for job, _ in await yard.dispatch()] == [first, last]


async def test_relays_hear_once_of_a_batch(yard: Yard, producer: Producer, redis_url: str) -> None:
    async with (
        doorbell.connect(redis_url) as client,
        client.pubsub(ignore_subscribe_messages=True) as channel,
    ):
        await channel.subscribe(doorbell.DUE)
        async with producer.batch() as batch:
            for contract in (Note(), Ask(), Note()):
                batch.add(contract)
        assert await _heard(channel) == {Note.kind, Ask.kind}


async def _heard(channel: redis.asyncio.client.PubSub) -> set[str]:
    async with asyncio.timeout(10):
        while (message := await channel.get_message(timeout=1)) is None:
            pass
    return set(message["data"].split())
