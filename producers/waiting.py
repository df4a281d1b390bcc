"""Lets requests wait for news of rows without a query a moment or a connection each.

One Redis subscription a process hears of what changed and wakes whoever watches it. Nothing is
taken from the news but the wake-up: a waiter looks in Postgres. In case news get lost, one query
every few seconds asks for all waiters of the process whose wait is over, so a Redis that is away or
forgetful only makes it slower.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from uuid import UUID

import redis.asyncio
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request

from goodsyard.database import Sessions
from goodsyard.doorbell import CHANGED

LOOK_AGAIN_SECONDS = 2.0
"""The longest a change goes unseen when its news was lost."""

RECONNECT_SECONDS = 1.0

# What is neither a live job nor an open order nor a pending payment is under way no more. No tenant
# is asked for: whoever waits has seen that the row is their own, and only learns to look again.
_NOT_UNDER_WAY = text("""
    SELECT awaited.id FROM unnest(CAST(:ids AS uuid[])) AS awaited(id)
     WHERE NOT EXISTS (SELECT FROM goodsyard.job j
                        WHERE j.id = awaited.id AND j.state <> 'dead')
       AND NOT EXISTS (SELECT FROM commerce.orders o
                        WHERE o.id = awaited.id AND o.status IN ('pending', 'reserved'))
       AND NOT EXISTS (SELECT FROM commerce.payment p
                        WHERE p.id = awaited.id AND p.state = 'pending')
    UNION
    SELECT subject FROM goodsyard.job
     WHERE subject = ANY(CAST(:ids AS uuid[])) AND state = 'dead'
""")

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Watch:
    """Waits for news of a set of ids, which may grow."""

    def __init__(self, watchers: defaultdict[str, set[Watch]]) -> None:
        """Stand by in ``watchers``."""
        self._watchers = watchers
        self._ids: set[str] = set()
        self._news = asyncio.Event()
        self.waiting = False

    def add(self, ids: Iterable[UUID]) -> bool:
        """Watch these too; return whether any is new: then look once more before waiting."""
        fresh = {str(one) for one in ids} - self._ids
        for one in fresh:
            self._watchers[one].add(self)
        self._ids |= fresh
        return bool(fresh)

    def wake(self) -> None:
        """Say that there is news."""
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Return at the next news, or after ``seconds``; and whether there is news."""
        self.waiting = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self.waiting = False
        news = self._news.is_set()  # also those that came with the end of the time
        self._news.clear()
        return news

    def close(self) -> None:
        """Stop watching."""
        for one in self._ids:
            self._watchers[one].discard(self)
            if not self._watchers[one]:
                del self._watchers[one]


class News:
    """Hears what changed, for all requests of this process."""

    def __init__(self, client: redis.asyncio.Redis, sessions: Sessions) -> None:
        """Listen through ``client``, and look through ``sessions`` for what it didn't hear."""
        self._redis = client
        self._sessions = sessions
        self._watchers: defaultdict[str, set[Watch]] = defaultdict(set)

    async def run(self) -> None:
        """Listen and look until cancelled; what is away is tried again and again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_listening())
            tasks.create_task(self._keep_looking())

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except (redis.RedisError, OSError) as error:
                _log.info("news.unheard", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(CHANGED)
            self._wake_all()  # whatever was rung while nobody listened
            async for message in subscription.listen():
                for one in message["data"].split():
                    for watch in self._watchers.get(one, ()):
                        watch.wake()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            try:
                await self.look_once()
            except (SQLAlchemyError, OSError) as error:  # the waiters' time will be up, no more
                _log.info("news.unseen", error=f"{type(error).__name__}: {error}")

    async def look_once(self) -> None:
        """Wake those whose wait is over, in one query for all; none if nobody waits."""
        awaited = list(self._watchers)
        if not awaited:
            return
        async with self._sessions.begin() as tx:
            over = (await tx.scalars(_NOT_UNDER_WAY, {"ids": awaited})).all()
        for one in over:
            for watch in self._watchers.get(str(one), ()):
                watch.wake()

    def _wake_all(self) -> None:
        for watches in self._watchers.values():
            for watch in watches:
                watch.wake()

    @contextmanager
    def watch(self, *ids: UUID) -> Iterator[Watch]:
        """Watch ids; do so before looking at their rows, or news may fall between."""
        watch = Watch(self._watchers)
        watch.add(ids)
        try:
            yield watch
        finally:
            watch.close()

    def is_awaited(self, one: UUID) -> bool:
        """Whether a request has looked at ``one`` and waits for its news right now."""
        return any(watch.waiting for watch in self._watchers.get(str(one), ()))

    @property
    def waiters(self) -> int:
        """How many requests wait for news right now."""
        return sum(watch.waiting for watch in {w for ws in self._watchers.values() for w in ws})

    async def looks(
        self,
        request: Request,
        watch: Watch,
        look: Callable[[], Awaitable[tuple[T, bool]]],
        seconds: float,
        *,
        every: float | None = None,
    ) -> AsyncIterator[T]:
        """Look at once, at every news and when time is up, and yield what is seen.

        Args:
            request: if its client hangs up, nobody waits on.
            watch: who wakes us.
            look: returns what it sees, and whether there is nothing more to wait for.
            seconds: how long to wait at the most; 0 looks once.
            every: how long to go without a look, in seconds, where more counts than what is news.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            seen, over = await look()
            yield seen
            if over or loop.time() >= until:
                return
            look_again = until if every is None else min(until, loop.time() + every)
            if not await _hangs_on(request, watch, look_again):
                return

    async def last_look(
        self,
        request: Request,
        watch: Watch,
        look: Callable[[], Awaitable[tuple[T, bool]]],
        seconds: float,
    ) -> T:
        """Return what is seen when there is nothing more to wait for, or time is up."""
        return [seen async for seen in self.looks(request, watch, look, seconds)][-1]


async def _hangs_on(request: Request, watch: Watch, until: float) -> bool:
    """Wait for news, or until a time of the event loop; return whether the client did so, too."""
    loop = asyncio.get_running_loop()
    while not await request.is_disconnected():
        left = until - loop.time()
        if left <= 0 or await watch.wait(min(left, LOOK_AGAIN_SECONDS)):
            return True
    return False
