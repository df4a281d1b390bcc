"""A relay dispatches only what it may, and only once it knows what that is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from goodsyard import doorbell
from goodsyard.database import Sessions
from goodsyard.job import new_id
from goodsyard.submit import Staged, stage
from tasks.contracts import ALL, ProcessOrder
from workers.broker import set_epoch
from workers.publisher import Envelope
from workers.relay import Relay
from workers.sweep import Situation

TENANT = 1
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
