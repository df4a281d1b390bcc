"""Keeps the queues filled: dispatches what is due, commits, and only then publishes.

Only a second or two of work is ever in Redis. The backlog stays in Postgres, where a limit, a pause
or a cancel still reaches it. Any number of relays may run; each also sweeps.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import redis.asyncio
import structlog
import uvloop
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from goodsyard import dispatch, doorbell, express, garbage, limited, publisher
from goodsyard.contracts import Contract
from goodsyard.database import Sessions, in_time, open_engine, session_factory
from goodsyard.dispatch import QUARANTINE, Dispatched
from goodsyard.failpoints import failpoint
from goodsyard.lanes import BEGINNING, Lane
from goodsyard.publisher import Envelope
from goodsyard.settings import EngineSettings, load
from tasks import contracts, schedules
from tasks.events import tell_of_deaths
from tasks.expiry import ReservationSettings, stage_expiries
from workers import broker, logging
from workers.broker import BrokerView
from workers.sweep import Situation, Sweep

POLL_SECONDS = 0.25
"""The longest a due job waits for a relay when every wake-up was lost."""


class Pause(NamedTuple):
    """Seconds between two rounds: at least, come what may, and at most, if nobody wakes us."""

    least: float
    most: float


IDLE = Pause(0.004, POLL_SECONDS)
"""Wake-ups that come faster than the least are answered together."""

BUSY = Pause(0.02, 0.02)
"""While a full queue or a spent limit holds jobs back: wake-ups change nothing then."""

AWAY = Pause(0.5, 0.5)
"""After Postgres or Redis didn't answer."""

Publish = Callable[[Sequence[Envelope], float], Awaitable[None]]
_log = structlog.get_logger(__name__)


class Relay:
    """Dispatches and publishes, round after round."""

    def __init__(
        self,
        sessions: Sessions,
        client: redis.asyncio.Redis,
        publish: Publish,
        kinds: Iterable[type[Contract]],
    ) -> None:
        """Relay jobs of ``kinds`` to the queues on ``client``, through ``publish``."""
        self._sessions = sessions
        self._redis = client
        self._publish = publish
        self._contracts = {contract.kind: contract for contract in kinds}
        self._queues = sorted({c.policy.queue for c in self._contracts.values()})
        self._woken: set[str] = set()
        self._deep: set[str] = set()  # kinds of which the last batch was full
        self._held: dict[str, float] = {}  # by a limit: when to look again
        self._behind: dict[str, Lane] = {}  # kinds with more lanes than one look takes in
        self._wake = asyncio.Event()
        self._last_look = 0.0
        self._said_clear = 0.0
        self._idle_view: BrokerView | None = None
        self.situation: Situation | None = None
        """Kept up to date by the sweep; before its first look, a limit or a pause isn't known."""

    def wake(self, kinds: Iterable[str]) -> None:
        """Say that jobs of ``kinds`` may be due."""
        woken = self._contracts.keys() & set(kinds)
        self._woken.update(woken)
        # A limit that holds a kind back may let a new key's jobs go.
        soon = asyncio.get_running_loop().time() + BUSY.least
        for kind in woken & self._held.keys():
            self._held[kind] = min(self._held[kind], soon)
        self._wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Do rounds until ``stopping``; an outage of Postgres or Redis is waited out."""
        while not stopping.is_set():
            try:
                async with self._sessions.committing() as statements:
                    while not stopping.is_set():
                        async with in_time():
                            pause = await self.run_once(statements)
                        await self._rest(pause)
            except (SQLAlchemyError, redis.RedisError, OSError) as error:
                _log.warning("relay.away", error=f"{type(error).__name__}: {error}")
                await self._rest(AWAY)

    async def _rest(self, pause: Pause) -> None:
        await asyncio.sleep(pause.least)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), pause.most - pause.least)
        self._wake.clear()

    async def run_once(self, statements: AsyncConnection) -> Pause:
        """Do one round and return how long the next should wait.

        Args:
            statements: a connection on which each commits itself.
        """
        situation, view = self.situation, self._idle_view or await self._look()
        if situation is None or not view.remembers:
            self._idle_view = None
            return BUSY  # the sweep sets things right first
        held_back = False
        for kind in await self._candidates(statements, situation):
            held_back |= await self._relay(statements, kind, situation, view)
        if held_back or self._woken:
            self._idle_view = None
            return BUSY
        # Looked up ahead, so that a lone job needn't wait for it: empty queues stay empty unless a
        # relay fills them, and what another did meanwhile makes no more than a message too many.
        view = await self._look()
        self._idle_view = None if view.holds_any else view
        if self._idle_view:
            await self._say_clear(situation)
        return self._until_held() if self._held else IDLE

    def _until_held(self) -> Pause:
        """Return the pause up to when a limit may let the next job go."""
        left = min(self._held.values()) - asyncio.get_running_loop().time()
        return Pause(IDLE.least, min(max(IDLE.least, left), IDLE.most))

    async def _say_clear(self, situation: Situation) -> None:
        """Let whoever accepts a lone job dispatch it at once: this relay couldn't do it sooner."""
        now = asyncio.get_running_loop().time()
        if now - self._said_clear > express.SAY_SECONDS:
            self._said_clear = now
            await express.say_clear(self._redis, self._clear_kinds(situation))

    def _clear_kinds(self, situation: Situation) -> list[str]:
        """Return the kinds that nothing holds back and somebody carries out."""
        return [
            kind
            for kind, contract in self._contracts.items()
            if kind not in situation.limited
            and contract.policy.queue not in situation.paused
            and situation.workers.get(contract.policy.queue)
        ]

    async def _look(self) -> BrokerView:
        return await broker.look(self._redis, self._queues)

    async def _candidates(self, statements: AsyncConnection, situation: Situation) -> list[str]:
        """Return the kinds worth a look: those woken, and at times whatever is due."""
        now = asyncio.get_running_loop().time()
        kinds, self._woken = self._woken, set()
        held, self._held = self._held, {}
        for kind, until in held.items():
            if until > now and kind in situation.limited:
                self._held[kind] = until
            else:
                kinds.add(kind)
        if not kinds or now - self._last_look > POLL_SECONDS:
            self._last_look = now
            kinds |= await dispatch.due_kinds(statements, list(self._contracts))
        return sorted(kinds - self._held.keys())

    async def _relay(
        self, statements: AsyncConnection, kind: str, situation: Situation, view: BrokerView
    ) -> bool:
        """Dispatch one batch of ``kind``; return whether some of it is still held back."""
        policy = self._contracts[kind].policy
        workers = situation.workers.get(policy.queue, 0)
        if policy.queue in situation.paused:
            self._woken.add(kind)
            return True
        # A message in reserve for every second worker: all of them are busy, and what gathers
        # meanwhile makes the next chunk larger, which is the lever of throughput. It stays where a
        # limit, a pause or a cancel still reaches it. Of a backlog that fills every chunk anyway,
        # there is one for each, so that nobody waits for the next round.
        reserve = max(1, workers if kind in self._deep else workers // 2)
        if view.lengths[policy.queue] >= reserve:
            self._woken.add(kind)
            if not view.urgent[policy.queue]:
                await self._overtake(statements, kind, situation)
            return True
        most = dispatch.batch_size(policy.chunk, workers, view.lengths[policy.queue])
        if kind in situation.limited:
            return await self._relay_limited(kind, most, situation)
        failpoint("before_dispatch_commit")
        batch, end = await dispatch.dispatch(statements, kind, most, behind=self._last_lane(kind))
        await self._go_on(kind, batch, end, most, situation)
        return False

    async def _overtake(self, statements: AsyncConnection, kind: str, situation: Situation) -> None:
        """Let a few jobs overtake a full queue: urgent ones, or those a limit let go just now."""
        most = min(self._contracts[kind].policy.chunk, dispatch.WORTH_A_MESSAGE)
        if kind in situation.limited:
            await self._relay_limited(kind, most, situation)
        else:
            batch, _ = await dispatch.dispatch(statements, kind, most, urgent=True)
            failpoint("after_dispatch_commit")
            await self._send_chunks(kind, batch, situation)

    async def _relay_limited(self, kind: str, most: int, situation: Situation) -> bool:
        """Dispatch what the kind's limit allows; return whether that limit was lifted meanwhile."""
        async with self._sessions.begin() as tx:
            found = await limited.dispatch(
                tx, self._contracts[kind], most, behind=self._last_lane(kind)
            )
            failpoint("before_dispatch_commit")
        if found is None:
            self._woken.add(kind)
            return True  # the sweep will say so
        now = asyncio.get_running_loop().time()
        if found.held_for is not None and found.end is None:
            self._held[kind] = now + min(max(found.held_for, BUSY.least), POLL_SECONDS)
        await self._go_on(kind, found.jobs, found.end, most, situation)
        return False

    def _last_lane(self, kind: str) -> Lane:
        return self._behind.get(kind, BEGINNING)

    async def _go_on(
        self,
        kind: str,
        batch: Sequence[Dispatched],
        end: Lane | None,
        most: int,
        situation: Situation,
    ) -> None:
        """Send what was dispatched and committed, and note whether there is more of the kind."""
        failpoint("after_dispatch_commit")
        more = len(batch) == most
        await self._send_chunks(kind, batch, situation, more=more)
        if more:
            self._deep.add(kind)
        # Where a look ended before the last lane, the next one goes on there at once; after the
        # last one it begins anew if there was more in any of them.
        if more or end is not None or (kind in self._behind and kind in self._deep):
            self._woken.add(kind)
        if end is not None:
            self._behind[kind] = end
            return
        self._behind.pop(kind, None)
        if not more:
            self._deep.discard(kind)

    async def _send_chunks(
        self, kind: str, batch: Sequence[Dispatched], situation: Situation, *, more: bool = False
    ) -> None:
        if not batch:
            return
        policy = self._contracts[kind].policy
        # Without a worker there, quarantine would lose the job's last chances one by one.
        aside = QUARANTINE if situation.workers.get(QUARANTINE) else policy.queue
        chunks = dispatch.chunks(
            batch,
            most=policy.chunk,
            workers=situation.workers.get(policy.queue, 0),
            more=more,
            hurry=kind in situation.limited,
        )
        await self._send(
            [Envelope(kind, aside if c.quarantined else policy.queue, c) for c in chunks],
            batch[0].sent_at,
        )

    async def _send(self, envelopes: Sequence[Envelope], sent_at: float) -> None:
        try:
            await self._publish(envelopes, sent_at)
        except (redis.RedisError, OSError):
            deliveries = [one for envelope in envelopes for one in envelope.chunk.deliveries]
            async with self._sessions.begin() as tx:
                await dispatch.take_back(tx, deliveries)
            raise


async def _listen(client: redis.asyncio.Redis, relay: Relay) -> None:
    """Pass wake-ups on for ever; while Redis is away, the relay's own poll has to do."""
    while True:
        with suppress(redis.RedisError, OSError):
            async with client.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(doorbell.DUE)
                while True:
                    message = await channel.get_message(timeout=1.0)
                    if message is not None:
                        relay.wake(message["data"].split())
        await asyncio.sleep(AWAY.least)


async def _main() -> None:
    settings, reservations = load(EngineSettings), load(ReservationSettings)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    engine = open_engine(
        str(settings.database_url),
        pool_size=3,
        application_name="goodsyard relay",
        keep_plans=True,
        durable=False,
    )
    sessions = session_factory(engine)
    cache, queues = doorbell.connect(str(settings.redis_url)), doorbell.connect(settings.broker)
    relay = Relay(sessions, queues, partial(publisher.publish, queues), contracts.ALL)
    expiries = partial(stage_expiries, seconds=reservations.reservation_seconds)
    sweep = Sweep(
        sessions,
        queues,
        doorbell.Doorbell(cache),
        contracts.ALL,
        relay,
        chores=[expiries],
        schedules=schedules.ALL,
        on_death=tell_of_deaths,
    )
    listener = asyncio.create_task(_listen(cache, relay))
    try:
        await asyncio.gather(relay.run(stopping), sweep.run(stopping))
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
        await cache.aclose()
        await queues.aclose()
        await engine.dispose()


def main() -> None:
    """Run a relay until SIGTERM or SIGINT."""
    logging.configure()
    garbage.look_seldom()
    uvloop.run(_main())
