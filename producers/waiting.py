"""Lets requests wait for news of rows without a query a moment or a connection each.

One Redis subscription a process hears of what changed and wakes whoever watches it. Nothing is
taken from the news but the wake-up: a waiter looks in Postgres, and looks every few seconds anyway,
so a Redis that is away or forgetful only makes it slower.
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
from starlette.requests import Request

from goodsyard.doorbell import CHANGED

LOOK_AGAIN_SECONDS = 2.0
"""The longest a change goes unseen when its news was lost."""

RECONNECT_SECONDS = 1.0

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

    async def wait(self, seconds: float) -> None:
        """Return at the next news, or after ``seconds``."""
        self.waiting = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self.waiting = False
        self._news.clear()

    def close(self) -> None:
        """Stop watching."""
        for one in self._ids:
            self._watchers[one].discard(self)
            if not self._watchers[one]:
                del self._watchers[one]


class News:
    """Hears what changed, for all requests of this process."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        """Listen through ``client``, once ``run``."""
        self._redis = client
        self._watchers: defaultdict[str, set[Watch]] = defaultdict(set)

    async def run(self) -> None:
        """Listen until cancelled; a Redis that is away is tried again and again."""
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

    async def looks(
        self,
        request: Request,
        watch: Watch,
        look: Callable[[], Awaitable[tuple[T, bool]]],
        seconds: float,
    ) -> AsyncIterator[T]:
        """Look at once, at every news and every few seconds, and yield what is seen.

        Args:
            request: if its client hangs up, nobody waits on.
            watch: who wakes us.
            look: returns what it sees, and whether there is nothing more to wait for.
            seconds: how long to wait at the most; 0 looks once.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            seen, over = await look()
            yield seen
            left = until - loop.time()
            if over or left <= 0 or await request.is_disconnected():
                return
            await watch.wait(min(left, LOOK_AGAIN_SECONDS))

    async def last_look(
        self,
        request: Request,
        watch: Watch,
        look: Callable[[], Awaitable[tuple[T, bool]]],
        seconds: float,
    ) -> T:
        """Return what is seen when there is nothing more to wait for, or time is up."""
        return [seen async for seen in self.looks(request, watch, look, seconds)][-1]
