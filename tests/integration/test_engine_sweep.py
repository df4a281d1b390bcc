"""The sweeper's rounds against a real broker: what is queued is spared, what it lost is not."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
import redis.asyncio
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import dispatch, doorbell, heartbeat, publisher, sweeper
from goodsyard.claims import Delivery
from goodsyard.dispatch import Chunk
from goodsyard.heartbeat import Worker
from goodsyard.interventions import Actor, pause_queue
from goodsyard.publisher import Envelope
from goodsyard.submit import Staged, stage
from tests.yard import NOTES, TENANT, Ask, Note, Yard, until
from workers import broker
from workers.sweep import Situation, Sweep


@dataclass
class Listener:
    """What a relay hears."""

    situation: Situation | None = None
    woken: set[str] = field(default_factory=set)

    def wake(self, kinds: Iterable[str]) -> None:
        self.woken.update(kinds)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with doorbell.connect(redis_url) as connected:
        yield connected


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def sweep(yard: Yard, client: redis.asyncio.Redis, listener: Listener) -> Sweep:
    return Sweep(yard.sessions, client, yard.bell, [Note, Ask], listener)


async def test_a_chore_is_done_at_once_and_not_again_before_its_time(
    yard: Yard, client: redis.asyncio.Redis, listener: Listener
) -> None:
    """It stages a job in a transaction that is committed, and its kind is woken."""
    done = 0

    async def chore(tx: AsyncSession) -> list[str]:
        nonlocal done
        done += 1
        await stage(tx, [Staged(TENANT, Note())])
        return [Note.kind]

    sweep = Sweep(yard.sessions, client, yard.bell, [Note, Ask], listener, chores=[chore])
    for _ in range(3):
        await sweep.run_once()
    assert (done, listener.woken) == (1, {Note.kind})
    assert len(await yard.dispatch()) == 1


async def register(yard: Yard, *queues: str) -> None:
    async with yard.sessions.begin() as tx:
        await heartbeat.beat(tx, Worker(uuid4(), "node", queues))


async def send(yard: Yard, client: redis.asyncio.Redis, *, ago: float = 0) -> list[Delivery]:
    """Dispatch and publish what is due, as a relay did so many seconds ago."""
    async with yard.sessions.begin() as tx:
        batch = (await dispatch.dispatch(tx, Note.kind, 500)).jobs
    await yard.sql("UPDATE goodsyard.job SET deadline = deadline - make_interval(secs => :s)",
                   s=ago)  # fmt: skip
    deliveries = [job.delivery for job in batch]
    chunk = Envelope(Note.kind, "orders", Chunk(tuple(deliveries)))
    await publisher.publish(client, [chunk], batch[0].sent_at - ago)
    return deliveries


async def later(yard: Yard) -> None:
    await yard.sql("UPDATE goodsyard.job SET deadline = now() WHERE deadline IS NOT NULL")


async def test_the_oldest_message_tells_when_it_was_dispatched(
    yard: Yard, client: redis.asyncio.Redis
) -> None:
    assert await broker.oldest_sent_at(client, "orders") is None
    moments = []
    for _ in range(2):
        await yard.stage(Note())
        ((moment,),) = await yard.sql("SELECT extract(epoch FROM now())::float8")
        moments.append(moment)
        await send(yard, client)
    oldest = await broker.oldest_sent_at(client, "orders")
    assert oldest is not None
    assert moments[0] <= oldest <= moments[1]


def forged(kwargs: object) -> str:
    body = base64.b64encode(json.dumps([[], kwargs, {}]).encode()).decode()
    return json.dumps({"body": body})


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xfe\x00", b"", b"no json", b"[]", b"{}", b"null", b'{"body": 7}',
        b'{"body": "no base64"}', forged(None), forged({}), forged({"at": "noon"}),
        forged({"at": float("nan")}), forged({"at": float("inf")}), forged({"at": None}),
    ],
)  # fmt: skip
async def test_a_message_that_is_not_ours_tells_nothing(
    client: redis.asyncio.Redis, message: bytes | str
) -> None:
    await client.lpush("orders", message)
    assert await broker.oldest_sent_at(client, "orders") is None


async def test_what_still_waits_in_redis_is_not_lost(
    yard: Yard, sweep: Sweep, client: redis.asyncio.Redis
) -> None:
    await register(yard, "orders")
    await yard.stage(Note())
    ((job, _),) = await send(yard, client, ago=600)
    for _ in range(3):
        await sweep.run_once()
    assert (await yard.job(job)).lost == 0

    await client.delete("orders")
    await sweep.run_once()
    assert (await yard.job(job)).lost == 0, "whoever took it may be about to claim it"

    async def is_lost() -> bool:
        await sweep.run_once()
        return (await yard.job(job)).lost == 1

    await until(is_lost, "what nobody claimed to be lost")


async def test_what_is_neither_in_redis_nor_with_a_worker_comes_back(
    yard: Yard, sweep: Sweep, listener: Listener
) -> None:
    await register(yard, "orders")
    ((job, _),) = await yard.deliver(Note())
    await later(yard)
    await sweep.run_once()
    assert ((await yard.job(job)).lost, listener.woken) == (1, {Note.kind})


async def test_without_a_worker_of_its_queue_nothing_comes_back(yard: Yard, sweep: Sweep) -> None:
    await register(yard, "payments")
    ((job, _),) = await yard.deliver(Note())
    await later(yard)
    await sweep.run_once()
    assert (await yard.job(job)).lost == 0


async def test_however_much_is_lost_one_round_brings_all_of_it_back(
    yard: Yard, sweep: Sweep
) -> None:
    await register(yard, "orders")
    count = 2 * sweeper.BATCH + 1
    await yard.stage(*(Note() for _ in range(count)))
    while await yard.dispatch():
        pass
    await later(yard)
    await sweep.run_once()
    assert len(await yard.sql("SELECT FROM goodsyard.job WHERE lost = 1")) == count


async def test_when_redis_forgot_all_comes_back_before_it_is_trusted_again(
    yard: Yard, sweep: Sweep, client: redis.asyncio.Redis, listener: Listener
) -> None:
    await sweep.restore_epoch()
    deliveries = await yard.deliver(Note(line="x"))
    await sweep.restore_epoch()
    assert await yard.states([deliveries[0][0]]) == ["dispatched"]

    await client.flushall()
    listener.woken.clear()
    await sweep.restore_epoch()
    assert (await broker.look(client, ())).remembers
    assert await yard.states([deliveries[0][0]]) == ["waiting"]
    assert listener.woken == {Note.kind, Ask.kind}
    await yard.run(NOTES, await yard.dispatch())
    assert await yard.notes() == ["x"]


async def test_the_relay_hears_how_things_stand(
    yard: Yard, sweep: Sweep, listener: Listener
) -> None:
    await register(yard, "orders", "payments")
    await yard.sql("INSERT INTO goodsyard.job_limit (name, concurrency) VALUES ('test.ask', 1)")
    async with yard.sessions.begin() as tx:
        await pause_queue(tx, Actor(TENANT, "ann"), "payments", paused=True)
    await sweep.run_once()
    assert listener.situation is not None
    assert dict(listener.situation.workers) == {"orders": 1, "payments": 1}
    assert set(listener.situation.limited) == {Ask.kind}
    assert set(listener.situation.paused) == {"payments"}
