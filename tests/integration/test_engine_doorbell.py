"""The doorbell tells whoever listens, holds nobody up, and may be missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from goodsyard import doorbell
from goodsyard.doorbell import CHANGED, DUE, Doorbell
from goodsyard.flow import DatabaseHandler
from goodsyard.job import new_id
from goodsyard.outcomes import Done, Outcome, Refused, Retry
from ops.embedded.ports import free_port
from tests.yard import Note, Yard


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with doorbell.connect(redis_url) as connected:
        yield connected


@pytest.fixture
async def heard(client: redis.asyncio.Redis) -> AsyncIterator[asyncio.Queue[tuple[str, set[str]]]]:
    """What a listener hears: the channel and the words of each ring."""
    rings: asyncio.Queue[tuple[str, set[str]]] = asyncio.Queue()

    async def listen(channel: redis.asyncio.client.PubSub) -> None:
        async for message in channel.listen():
            rings.put_nowait((message["channel"], set(message["data"].split())))

    async with client.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(DUE, CHANGED)
        listening = asyncio.create_task(listen(channel))
        yield rings
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def next_ring(heard: asyncio.Queue[tuple[str, set[str]]]) -> tuple[str, set[str]]:
    async with asyncio.timeout(5):
        return await heard.get()


async def test_what_rings_together_is_heard_together(
    client: redis.asyncio.Redis, heard: asyncio.Queue[tuple[str, set[str]]]
) -> None:
    bell, order = Doorbell(client), new_id()
    for kind in ("a", "b", "a"):
        bell.ring(due=[kind])
    bell.ring(changed=[order])
    assert await next_ring(heard) == (DUE, {"a", "b"})
    assert await next_ring(heard) == (CHANGED, {str(order)})
    await bell.close()
    assert heard.empty()


async def test_nobody_hears_of_what_is_not_over(
    yard: Yard, heard: asyncio.Queue[tuple[str, set[str]]]
) -> None:
    outcomes: list[Outcome] = [Done(next=[Note()]), Refused("no"), Retry("later")]
    orders = [new_id() for _ in outcomes]

    async def run(chunk: object, tx: object) -> list[Outcome]:
        return outcomes

    deliveries = await yard.deliver(*(Note(about=order) for order in orders))
    await yard.run(DatabaseHandler(Note, run), deliveries)
    assert await next_ring(heard) == (DUE, {Note.kind})
    ids = [str(job) for job, _ in deliveries]
    over = {ids[0], ids[1], str(orders[0]), str(orders[1])}
    assert await next_ring(heard) == (CHANGED, over)


async def test_without_redis_ringing_costs_nothing() -> None:
    async with doorbell.connect(f"redis://127.0.0.1:{free_port()}/0") as nobody:
        bell = Doorbell(nobody)
        for _ in range(100):
            bell.ring(due=["a"], changed=[new_id()])
        async with asyncio.timeout(5):
            await bell.close()
        bell.ring(due=["a"])
        await bell.close()


async def test_a_listener_that_is_told_to_stop_stops_whatever_it_was_about(redis_url: str) -> None:
    """Cancelled after any number of turns of the event loop, all the way to the first message."""

    async def listen(client: redis.asyncio.Redis) -> None:
        async with client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(DUE)
            subscribed.set()
            async for _ in channel.listen():
                pass

    subscribed, turns = asyncio.Event(), 0
    while not subscribed.is_set():
        turns += 1
        async with doorbell.connect(redis_url) as client:
            listening = asyncio.create_task(listen(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            listening.cancel()
            ended, _ = await asyncio.wait([listening], timeout=10)
        assert ended, f"it goes on, although it was cancelled after {turns} turns"
        assert listening.cancelled()
