"""A relay dispatches only what it may, and only once it knows what that is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from goodsyard import doorbell, express
from goodsyard.database import Sessions
from goodsyard.job import new_id
from goodsyard.publisher import Envelope
from goodsyard.submit import Staged, stage
from tasks.contracts import ALL, ChargePayment, ProcessOrder
from workers.broker import set_epoch
from workers.relay import Relay
from workers.sweep import Situation

TENANT = 1
PATIENCE = 10.0
JOBS = 20

NOTHING_HOLDS_BACK = Situation(workers={"orders": 2}, limited=frozenset(), paused=frozenset())
ON_HOLD = Situation(workers={"orders": 2}, limited=frozenset(), paused=frozenset({"orders"}))


class Messages:
    """What a relay has sent."""

    def __init__(self) -> None:
        self.jobs = 0

    async def publish(self, envelopes: Sequence[Envelope], _sent_at: float) -> None:
        self.jobs += sum(len(envelope.chunk.deliveries) for envelope in envelopes)


@pytest.fixture
def messages() -> Messages:
    return Messages()


@pytest.fixture
async def relay(
    sessions: Sessions, redis_url: str, messages: Messages
) -> AsyncIterator[Callable[[Situation | None], Relay]]:
    """A relay upon a backlog of jobs, told how things stand."""
    async with sessions.begin() as tx:
        await stage(tx, [Staged(TENANT, ProcessOrder(order_id=new_id())) for _ in range(JOBS)])
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
