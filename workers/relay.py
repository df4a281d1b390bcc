"""Keeps the queues filled: dispatches what is due, commits, and only then publishes.

Only a second or two of work is ever in Redis. The backlog stays in Postgres, where a limit, a pause
or a cancel still reaches it. Any number of relays may run; each also sweeps.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import redis.asyncio
import structlog
import uvloop
from kombu.exceptions import KombuError
from sqlalchemy.exc import SQLAlchemyError

from goodsyard import dispatch, doorbell, limits
from goodsyard.contracts import Contract
from goodsyard.database import Sessions, open_engine, session_factory
from goodsyard.dispatch import QUARANTINE
from goodsyard.failpoints import failpoint
from goodsyard.settings import EngineSettings, load
from tasks import contracts
from workers import broker, logging, publisher
from workers.app import app
from workers.broker import BrokerView
from workers.publisher import Envelope
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

Publish = Callable[[Sequence[Envelope], float], None]
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
        # One thread, always the same: kombu and Celery keep their connections a thread each.
        self._publishing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._woken: set[str] = set()
        self._wake = asyncio.Event()
        self._last_look = 0.0
        self.situation: Situation | None = None
        """Kept up to date by the sweep; before its first look, a limit or a pause isn't known."""

    def wake(self, kinds: Iterable[str]) -> None:
        """Say that jobs of ``kinds`` may be due."""
        self._woken.update(self._contracts.keys() & set(kinds))
        self._wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Do rounds until ``stopping``; an outage of Postgres or Redis is waited out."""
        while not stopping.is_set():
            try:
                pause = await self.run_once()
            except (SQLAlchemyError, redis.RedisError, KombuError, OSError) as error:
                _log.warning("relay.away", error=f"{type(error).__name__}: {error}")
                pause = AWAY
            await asyncio.sleep(pause.least)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause.most - pause.least)
            self._wake.clear()

    async def run_once(self) -> Pause:
        """Do one round and return how long the next should wait."""
        situation, view = self.situation, await broker.look(self._redis, self._queues)
        if situation is None or not view.remembers:
            return BUSY  # the sweep sets things right first
        held_back = False
        for kind in await self._candidates():
            held_back |= await self._relay(kind, situation, view)
        return BUSY if held_back or self._woken else IDLE

    async def _candidates(self) -> list[str]:
        """Return the kinds worth a look: those woken, and at times whatever is due."""
        now = asyncio.get_running_loop().time()
        kinds, self._woken = self._woken, set()
        if not kinds or now - self._last_look > POLL_SECONDS:
            self._last_look = now
            async with self._sessions.begin() as tx:
                kinds |= await dispatch.due_kinds(tx, list(self._contracts))
        return sorted(kinds)

    async def _relay(self, kind: str, situation: Situation, view: BrokerView) -> bool:
        """Dispatch one batch of ``kind``; return whether some of it is still held back."""
        policy = self._contracts[kind].policy
        workers = situation.workers.get(policy.queue, 0)
        # A message in reserve for every second worker: all of them are busy, and what gathers
        # meanwhile makes the next chunk larger, which is the lever of throughput. It stays where a
        # limit, a pause or a cancel still reaches it.
        reserve = max(1, workers // 2)
        if view.lengths[policy.queue] >= reserve or policy.queue in situation.paused:
            self._woken.add(kind)
            return True
        batch, sent_at, spent = await self._dispatch(
            kind, dispatch.BATCH, limited=kind in situation.limited
        )
        if batch:
            # Without a worker there, quarantine would lose the job's last chances one by one.
            aside = QUARANTINE if situation.workers.get(QUARANTINE) else policy.queue
            chunks = dispatch.chunks(batch, most=policy.chunk, workers=workers)
            await self._send(
                [Envelope(kind, aside if c.quarantined else policy.queue, c) for c in chunks],
                sent_at,
            )
        if spent or len(batch) == dispatch.BATCH:
            self._woken.add(kind)
        return spent

    async def _dispatch(
        self, kind: str, most: int, *, limited: bool
    ) -> tuple[list[dispatch.Dispatched], float, bool]:
        """Return what was dispatched, when, and whether a limit held more back."""
        async with self._sessions.begin() as tx:
            granted = await limits.grant(tx, kind, most) if limited else most
            batch = await dispatch.dispatch(tx, kind, granted) if granted else []
            if limited and len(batch) < granted:
                await limits.give_back(tx, kind, granted - len(batch))
            sent_at = await dispatch.transaction_time(tx)
            failpoint("before_dispatch_commit")
        failpoint("after_dispatch_commit")
        return batch, sent_at, granted < most and len(batch) == granted

    async def _send(self, envelopes: Sequence[Envelope], sent_at: float) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._publishing, self._publish, envelopes, sent_at)
        except (KombuError, redis.RedisError, OSError):
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
    settings = load(EngineSettings)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    engine = open_engine(
        str(settings.database_url), pool_size=3, application_name="goodsyard relay", durable=False
    )
    sessions = session_factory(engine)
    cache, queues = doorbell.connect(str(settings.redis_url)), doorbell.connect(settings.broker)
    relay = Relay(sessions, queues, partial(publisher.publish, app), contracts.ALL)
    sweep = Sweep(sessions, queues, doorbell.Doorbell(cache), contracts.ALL, relay)
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
    uvloop.run(_main())
