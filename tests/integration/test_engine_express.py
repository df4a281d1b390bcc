"""A lone job takes the lane past the relays only while nothing is held back, and is never lost."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import redis.asyncio

from goodsyard import doorbell, express, limits, sweeper
from goodsyard.claims import Delivery
from goodsyard.contracts import Rate
from goodsyard.express import Express
from goodsyard.messages import parse
from goodsyard.producer import Producer
from goodsyard.submit import Staged
from tests.yard import NOTES, TENANT, Ask, Note, Yard, until

QUEUE = Note.policy.queue


@pytest.fixture
async def queues(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with doorbell.connect(redis_url) as client:
        yield client


@pytest.fixture
async def lane(yard: Yard, queues: redis.asyncio.Redis) -> Express:
    """A lane that a relay has just said is clear."""
    opened = Express(yard.sessions, queues)
    opened.heed([Note.kind])
    return opened


async def submit(yard: Yard, lane: Express) -> UUID:
    """Submit a lone job; return once whatever is to be sent has been."""
    job = await Producer(yard.sessions, yard.bell, TENANT, lane).submit(Note(line="lone"))
    await lane.close()
    return job


async def sent(queues: redis.asyncio.Redis) -> list[Delivery]:
    """Return what the messages in the queue name."""
    deliveries = []
    for raw in await queues.lrange(QUEUE, 0, -1):
        _, keywords, _ = json.loads(base64.b64decode(json.loads(raw)["body"]))
        deliveries += parse(keywords["v"], keywords["jobs"])
    return deliveries


async def test_a_lone_job_is_sent_by_who_accepts_it_and_runs_as_any_other(
    yard: Yard, lane: Express, queues: redis.asyncio.Redis
) -> None:
    job = await submit(yard, lane)
    assert await sent(queues) == [(job, 1)]
    assert await yard.states([job]) == ["dispatched"]
    await yard.run(NOTES, await sent(queues) * 2)  # its message may come twice, like any
    assert (await yard.states([job]), await yard.notes()) == (["succeeded"], ["lone"])


async def test_a_job_whose_sender_died_after_the_commit_comes_back_by_its_deadline(
    yard: Yard, lane: Express, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "send", lambda _job, _sent_at: True)
    job = await submit(yard, lane)
    assert await yard.dispatch() == [], "no relay takes it while its message may be on its way"
    await yard.sql("UPDATE goodsyard.job SET deadline = deadline - interval '6 seconds'")
    async with yard.sessions.begin() as tx:
        await sweeper.return_overdue(tx, [Note], {})
    await yard.run(NOTES, await yard.dispatch())
    assert (await yard.states([job]), await yard.notes()) == (["succeeded"], ["lone"])


async def test_a_job_that_could_not_be_sent_goes_back_to_the_relays_and_the_lane_closes(
    yard: Yard, lane: Express, queues: redis.asyncio.Redis
) -> None:
    await queues.set(QUEUE, "no list")  # so that the push is refused
    job = await submit(yard, lane)
    assert await yard.states([job]) == ["waiting"]
    assert not lane.takes(Staged(TENANT, Note()))
    await yard.run(NOTES, await yard.dispatch())
    assert await yard.notes() == ["lone"]


async def test_a_paused_queue_and_a_limited_kind_keep_the_lane_closed_from_their_commit_on(
    yard: Yard, lane: Express, queues: redis.asyncio.Redis
) -> None:
    await yard.sql("UPDATE goodsyard.queue SET paused = true WHERE name = :name", name=QUEUE)
    paused = await submit(yard, lane)
    await yard.sql("UPDATE goodsyard.queue SET paused = false")
    async with yard.sessions.begin() as tx:
        await limits.set_limit(tx, Note.kind, Rate("1/second"))
    await until_open(lane)
    limited = await submit(yard, lane)
    assert await yard.states([paused, limited]) == ["waiting", "waiting"]
    assert await sent(queues) == []


async def until_open(lane: Express) -> None:
    await asyncio.sleep(express.GAP_SECONDS)
    lane.heed([Note.kind])


async def test_only_what_is_due_alone_and_known_to_be_clear_takes_the_lane(lane: Express) -> None:
    assert not lane.takes(Staged(TENANT, Ask()))
    later = datetime.now(UTC) + timedelta(hours=1)
    assert not lane.takes(Staged(TENANT, Note(), run_at=later))
    assert lane.takes(Staged(TENANT, Note()))
    assert not lane.takes(Staged(TENANT, Note())), "what comes at once goes in a chunk"


async def test_a_lane_is_closed_until_a_relay_is_heard_and_again_when_none_is(
    yard: Yard, queues: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, job = Express(yard.sessions, queues), Staged(TENANT, Note())
    assert not lane.takes(job)
    listening = asyncio.create_task(lane.run())

    async def is_open() -> bool:
        await express.say_clear(queues, [Note.kind])
        return lane.takes(job)

    await until(is_open, "the lane to open")
    monkeypatch.setattr(express, "HEED_SECONDS", 0)
    lane.heed([Note.kind])
    assert not lane.takes(job)
    listening.cancel()
