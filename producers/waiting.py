"""Lets thousands of requests wait for news of rows: while there are none, they cost nothing each.

One Redis subscription a process hears of what changed and wakes whoever watches it. Nothing is
taken from the news but the wake-up: a waiter looks in Postgres. (What running jobs say of their
progress is in no row; that is passed on as it is heard.) In case news get lost, one query every few
seconds asks for all waiters of the process what they have missed, so a Redis that is away or
forgetful only makes it slower.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from uuid import UUID

import redis.asyncio
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request

from goodsyard import progress
from goodsyard.database import Sessions
from goodsyard.doorbell import CHANGED
from goodsyard.job import JobState
from goodsyard.progress import PROGRESS, Progress

LOOK_AGAIN_SECONDS = 2.0
"""The longest a change goes unseen when its news was lost."""

RECONNECT_SECONDS = 1.0

# What is neither a live job nor an open order nor a pending payment is under way no more. No tenant
# is asked for: whoever waits has seen that the row is their own, and only learns to look again.
_MISSED = text("""
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
    UNION
    SELECT j.id FROM unnest(CAST(:followed AS uuid[]), CAST(:told AS text[])) AS f(id, state)
      JOIN goodsyard.job j ON j.id = f.id
     WHERE CAST(j.state AS text) <> f.state
""")

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Watch:
    """Waits for news of a set of ids, which may grow."""

    def __init__(self, watchers: defaultdict[str, set[Watch]]) -> None:
        """Stand by in ``watchers``."""
        self._watchers = watchers
        self._ids: set[str] = set()
        self._woken = asyncio.Event()
        self._is_news = False
        self._words: dict[str, Progress] = {}
        self.waiting = False
        self.is_deserted = False
        """Whether who asked has gone."""
        self.told: JobState | None = None
        """Of who follows a job from state to state, the last one it was told."""

    def add(self, ids: Iterable[UUID]) -> bool:
        """Watch these too; return whether any is new: then look once more before waiting."""
        fresh = {str(one) for one in ids} - self._ids
        for one in fresh:
            self._watchers[one].add(self)
        self._ids |= fresh
        return bool(fresh)

    def wake(self) -> None:
        """Say that there is news."""
        self._is_news = True
        self._woken.set()

    def desert(self) -> None:
        """Say that nobody waits for an answer any more."""
        self.is_deserted = True
        self._woken.set()

    def hear(self, one: str, word: Progress) -> None:
        """Take a job's word, if its progress is followed."""
        if self.told is not None:
            self._words[one] = word
            self._woken.set()

    def take_words(self) -> list[Progress]:
        """Return the latest word of each job that has said any since the last time."""
        words, self._words = list(self._words.values()), {}
        return words

    async def wait(self, seconds: float) -> bool:
        """Return at the next news or word, or after ``seconds``; and whether there is news."""
        self.waiting = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self.waiting = False
        self._woken.clear()
        news, self._is_news = self._is_news, False  # also those that came with the end of the time
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
            await subscription.subscribe(CHANGED, PROGRESS)
            self._wake_all()  # whatever was rung while nobody listened
            async for message in subscription.listen():
                if message["channel"] == PROGRESS:
                    self._pass_on(message["data"])
                else:
                    self._wake(message["data"].split())

    def _wake(self, ids: Iterable[str]) -> None:
        for one in ids:
            for watch in self._watchers.get(one, ()):
                watch.wake()

    def _pass_on(self, words: str) -> None:
        if self._watchers:
            for job, word in progress.heard(words):
                for watch in self._watchers.get(str(job), ()):
                    watch.hear(str(job), word)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            try:
                await self.look_once()
            except (SQLAlchemyError, OSError) as error:  # the waiters' time will be up, no more
                _log.info("news.unseen", error=f"{type(error).__name__}: {error}")

    async def look_once(self) -> None:
        """Wake those who have missed news, in one query for all; none if nobody waits."""
        awaited = list(self._watchers)
        if not awaited:
            return
        followed = {
            (one, watch.told.value)
            for one, watches in self._watchers.items()
            for watch in watches
            if watch.told is not None
        }
        parameters = {
            "ids": awaited,
            "followed": [one for one, _ in followed],
            "told": [told for _, told in followed],
        }
        async with self._sessions.begin() as tx:
            missed = (await tx.scalars(_MISSED, parameters)).all()
        self._wake(map(str, missed))

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

    async def last_look(
        self,
        request: Request,
        watch: Watch,
        look: Callable[[], Awaitable[tuple[T, bool]]],
        seconds: float,
    ) -> T:
        """Look at once, at every news and when time is up; return what was seen last.

        Args:
            request: if its client hangs up, nobody waits on.
            watch: who wakes us.
            look: returns what it sees, and whether there is nothing more to wait for.
            seconds: how long to wait at the most; 0 looks once.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        seen, over = await look()
        if over or seconds == 0:
            return seen
        minding = asyncio.create_task(_mind(request, watch))
        try:
            while not over and (left := until - loop.time()) > 0:
                news = await watch.wait(left)
                if watch.is_deserted:
                    break
                if news or loop.time() >= until:
                    seen, over = await look()
        finally:
            minding.cancel()
        return seen


async def _mind(request: Request, watch: Watch) -> None:
    """Tell ``watch`` when the client hangs up; to ask it every now and then costs far more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass  # the body of a request that has none
    watch.desert()
