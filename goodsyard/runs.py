"""Passes on what the running jobs of a process say, and tells them when they are called off.

For all of them together: a few times a second the latest words go to Redis in one round trip, and
once a second one query asks Postgres which of them were called off. While nothing is under way,
and for calls that are over sooner, there is neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from goodsyard import recall
from goodsyard.claims import Delivery
from goodsyard.database import Sessions, in_time
from goodsyard.doorbell import Doorbell
from goodsyard.progress import Progress
from goodsyard.run import Run

SAY_SECONDS = 0.2
"""The least between two words of a job that reach Redis: as fast as a person reads a figure."""

LISTEN_SECONDS = 1.0
"""The least between two questions to Postgres, and about how long a cancel takes to be known."""

_log = structlog.get_logger(__name__)


class Runs:
    """The runs that one worker process has under way, on one event loop."""

    def __init__(self, sessions: Sessions, doorbell: Doorbell) -> None:
        """Speak through ``doorbell``, and listen through ``sessions``."""
        self._sessions = sessions
        self._doorbell = doorbell
        self._runs: dict[Delivery, Run] = {}
        self._said: dict[Delivery, Progress] = {}
        self._all_over = asyncio.Event()
        self._attending: asyncio.Task[None] | None = None

    @contextmanager
    def under_way(self, job: UUID, fence: int) -> Iterator[Run]:
        """Attend to a run until the end of the block; what it hasn't got said by then is moot."""
        run = self._runs[job, fence] = Run(fence)
        self._all_over.clear()
        if self._attending is None or self._attending.done():
            self._attending = asyncio.create_task(self._attend())
        try:
            yield run
        finally:
            del self._runs[job, fence]
            self._said.pop((job, fence), None)
            if not self._runs:
                self._all_over.set()

    async def rest(self) -> None:
        """Return when there is nothing left to attend to."""
        if self._attending is not None:
            await asyncio.wait([self._attending])

    async def _attend(self) -> None:
        loop = asyncio.get_running_loop()
        listen_at = loop.time() + LISTEN_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SAY_SECONDS):
                    await self._all_over.wait()
            if not self._runs:
                return
            await self._say()
            if loop.time() >= listen_at:
                await self._listen()
                listen_at = loop.time() + LISTEN_SECONDS

    async def _say(self) -> None:
        new = {
            key: run.word
            for key, run in self._runs.items()
            if run.word is not None and run.word is not self._said.get(key)
        }
        if new and await self._doorbell.say([(job, word) for (job, _), word in new.items()]):
            self._said |= {key: word for key, word in new.items() if key in self._runs}

    async def _listen(self) -> None:
        try:
            async with in_time(), self._sessions.committing() as connection:
                called_off = await recall.called_off(connection, {job for job, _ in self._runs})
        except (SQLAlchemyError, OSError) as error:
            _log.info("cancels.unheard", error=f"{type(error).__name__}: {error}")
            return
        for (job, _), run in self._runs.items():
            if job in called_off:
                run.call_off()
