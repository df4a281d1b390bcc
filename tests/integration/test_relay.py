"""A relay dispatches only what it may, and only once it knows what that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
from kombu import Connection

import workers.app
from goodsyard import doorbell, express, lanes
from goodsyard.contracts import Rate
from goodsyard.database import Sessions
from goodsyard.dispatch import WORTH_A_MESSAGE, Chunk
from goodsyard.job import new_id
from goodsyard.limits import set_concurrency, set_limit, set_penalty
from goodsyard.publisher import Envelope, publish, urgent_list
from goodsyard.submit import Staged, stage
from tasks.contracts import ALL, ChargePayment, ProcessOrder
from workers.broker import set_epoch
from workers.relay import BUSY, Relay
from workers.sweep import Situation

TENANT = 1
PATIENCE = 10.0
JOBS = 20

NOTHING_HOLDS_BACK = Situation(workers={"orders": 2}, limited=frozenset(), paused=frozenset())
ON_HOLD = Situation(workers={"orders": 2}, limited=frozenset(), paused=frozenset({"orders"}))


class Messages:
    """What a relay has sent."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []

    async def publish(self, envelopes: Sequence[Envelope], _sent_at: float) -> None:
        self.sent += envelopes

    @property
    def jobs(self) -> int:
        return sum(len(envelope.chunk.deliveries) for envelope in self.sent)


def jobs_of(envelope: Envelope) -> list[UUID]:
    return [job for job, _ in envelope.chunk.deliveries]


async def submit(sessions: Sessions, jobs: int, priority: int = 5) -> set[UUID]:
    staged = [
        Staged(TENANT, ProcessOrder(order_id=new_id()), priority=priority) for _ in range(jobs)
    ]
    async with sessions.begin() as tx:
        return await stage(tx, staged)


@pytest.fixture
def messages() -> Messages:
    return Messages()


@pytest.fixture
async def relay(
    sessions: Sessions, redis_url: str, messages: Messages
) -> AsyncIterator[Callable[[Situation | None], Relay]]:
    """A relay upon a backlog of jobs, told how things stand."""
    await submit(sessions, JOBS)
    async with doorbell.connect(redis_url) as client:
        await set_epoch(client, "now")

        def told(situation: Situation | None) -> Relay:
            made = Relay(sessions, client, messages.publish, ALL)
            made.situation = situation
            return made

        yield told


@pytest.mark.parametrize(
    ("situation", "sent"), [(None, 0), (ON_HOLD, 0), (NOTHING_HOLDS_BACK, JOBS)]
)
async def test_a_relay_sends_nothing_before_it_knows_what_it_may_send(
    sessions: Sessions,
    relay: Callable[[Situation | None], Relay],
    messages: Messages,
    situation: Situation | None,
    sent: int,
) -> None:
    async with sessions.committing() as statements:
        await relay(situation).run_once(statements)
    assert messages.jobs == sent


async def test_an_idle_relay_lets_those_jobs_pass_that_nothing_holds_back(
    sessions: Sessions, redis_url: str, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "SAY_SECONDS", 0)
    situation = Situation(  # nobody consumes the notifications
        workers={"orders": 2, "payments": 1},
        limited=frozenset({ChargePayment.kind}),
        paused=frozenset({"orders"}),
    )
    async with doorbell.connect(redis_url) as client, client.pubsub() as channel:
        await set_epoch(client, "now")
        await channel.subscribe(express.CLEAR)
        await channel.get_message(timeout=PATIENCE)  # that we listen
        relay = Relay(sessions, client, messages.publish, ALL)
        relay.situation = situation
        async with sessions.committing() as statements:
            await relay.run_once(statements)
            said = await channel.get_message(timeout=PATIENCE)
            await client.lpush("payments", "a message")
            await relay.run_once(statements)  # which looks again at its end
            assert await channel.get_message(timeout=0) is None, "a queue with work isn't clear"
    clear = {contract.kind for contract in ALL if contract.policy.queue == "payments"}
    assert set(said["data"].split()) == clear - {ChargePayment.kind}


async def test_urgent_jobs_overtake_a_full_queue_and_others_wait(
    sessions: Sessions,
    redis_url: str,
    relay: Callable[[Situation | None], Relay],
    messages: Messages,
) -> None:
    urgent = await submit(sessions, 2, priority=0)
    async with doorbell.connect(redis_url) as client, sessions.committing() as statements:
        await client.lpush("orders", "a message", "another")
        await relay(NOTHING_HOLDS_BACK).run_once(statements)
        assert [(set(jobs_of(one)), one.chunk.urgent) for one in messages.sent] == [(urgent, True)]
        await submit(sessions, 1, priority=0)
        await client.lpush(urgent_list("orders"), "a message")
        await relay(NOTHING_HOLDS_BACK).run_once(statements)
    assert len(messages.sent) == 1, "while some are on their way, no more follow"


async def test_who_calls_everything_urgent_overtakes_with_a_few(
    sessions: Sessions, relay: Callable[[Situation | None], Relay], messages: Messages
) -> None:
    await submit(sessions, 200, priority=0)
    async with sessions.committing() as statements:
        await relay(NOTHING_HOLDS_BACK).run_once(statements)
    ahead = [one for one in messages.sent if one.chunk.urgent]
    assert [len(one.chunk.deliveries) for one in ahead] == [WORTH_A_MESSAGE]
    assert messages.jobs == JOBS + 200


async def test_a_kind_that_its_limit_holds_back_keeps_no_other_waiting(
    sessions: Sessions, relay: Callable[[Situation | None], Relay], messages: Messages
) -> None:
    async with sessions.begin() as tx:
        await set_limit(tx, ProcessOrder.kind, Rate("1/day", burst=5))
    limited = Situation({"orders": 2}, frozenset({ProcessOrder.kind}), frozenset())
    one = relay(limited)
    async with sessions.committing() as statements:
        pause = await one.run_once(statements)
        assert messages.jobs == 5
        assert pause.most > BUSY.most, "there is nothing to be busy with"
        await one.run_once(statements)
    assert messages.jobs == 5


async def test_what_a_limit_lets_go_overtakes_a_full_queue_since_its_grant_lapses(
    sessions: Sessions,
    redis_url: str,
    relay: Callable[[Situation | None], Relay],
    messages: Messages,
) -> None:
    async with sessions.begin() as tx:
        await set_limit(tx, ProcessOrder.kind, Rate("1/day", burst=5))
    limited = Situation({"orders": 2}, frozenset({ProcessOrder.kind}), frozenset())
    async with doorbell.connect(redis_url) as client, sessions.committing() as statements:
        await client.lpush("orders", "a message", "another")
        await relay(limited).run_once(statements)
    assert [one.chunk.urgent for one in messages.sent] == [True]
    assert messages.jobs == 5


async def test_a_limit_that_was_lifted_holds_nothing_back_until_the_relay_hears_of_it(
    sessions: Sessions, relay: Callable[[Situation | None], Relay], messages: Messages
) -> None:
    one = relay(Situation({"orders": 2}, frozenset({ProcessOrder.kind}), frozenset()))
    async with sessions.committing() as statements:
        assert await one.run_once(statements) == BUSY
        one.situation = NOTHING_HOLDS_BACK
        await one.run_once(statements)
    assert messages.jobs == JOBS


async def test_messages_that_overtake_are_put_where_workers_read_first(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOODSYARD_DATABASE_URL", "postgresql+psycopg://127.0.0.1/goodsyard")
    monkeypatch.setenv("GOODSYARD_REDIS_URL", redis_url)
    options = workers.app.app.conf.broker_transport_options
    chunk = Chunk(((new_id(), 1),), urgent=True)
    async with doorbell.connect(redis_url) as client:
        await publish(client, [Envelope(ProcessOrder.kind, "orders", chunk)], 0.0)
        assert await client.llen("orders") == 0
        with Connection(redis_url, transport_options=options) as connection:
            channel: Any = connection.channel()  # kombu's stubs know no transport's own channel
            read = [channel._q_for_pri("orders", step) for step in channel.priority_steps]  # noqa: SLF001 - the only place that says so
        assert read == [urgent_list("orders"), "orders"]
        assert await client.llen(read[0]) == 1


async def test_a_relay_comes_by_every_lane_and_then_to_rest(
    sessions: Sessions,
    relay: Callable[[Situation | None], Relay],
    messages: Messages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "MOST_LANES", 2)
    tenants = range(2, 8)
    async with sessions.begin() as tx:
        await set_limit(tx, ProcessOrder.kind, Rate("1/day", burst=5))
        await stage(tx, [Staged(tenant, ProcessOrder(order_id=new_id())) for tenant in tenants])
    one = relay(Situation({"orders": 2}, frozenset({ProcessOrder.kind}), frozenset()))
    async with sessions.committing() as statements:
        pauses = [await one.run_once(statements) for _ in range(4)]
        one.situation = NOTHING_HOLDS_BACK
        async with sessions.begin() as tx:
            await set_limit(tx, ProcessOrder.kind, None)
        one.wake([ProcessOrder.kind])
        assert [pause.most > BUSY.most for pause in pauses] == [False, False, False, True]
        while (await one.run_once(statements)).most <= BUSY.most:
            pass
    assert messages.jobs == JOBS + len(tenants)


async def test_news_of_a_kind_that_is_held_back_is_looked_at_soon(
    sessions: Sessions,
    relay: Callable[[Situation | None], Relay],
    messages: Messages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.relay.POLL_SECONDS", 600)
    async with sessions.begin() as tx:
        await set_concurrency(tx, ProcessOrder.kind, JOBS)
        await set_penalty(tx, ProcessOrder.kind, 600)
    one = relay(Situation({"orders": 2}, frozenset({ProcessOrder.kind}), frozenset()))
    async with sessions.committing() as statements:
        await one.run_once(statements)
        async with sessions.begin() as tx:
            await set_penalty(tx, ProcessOrder.kind, 0)
        await one.run_once(statements)
        assert messages.jobs == 0, "it isn't looked at again before the penalty is over"
        one.wake([ProcessOrder.kind])
        await asyncio.sleep((await one.run_once(statements)).most)
        await one.run_once(statements)
    assert messages.jobs == JOBS
