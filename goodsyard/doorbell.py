"""Redis PUBLISH as a doorbell: tells relays what is due and waiters what changed, and may be lost.

Nothing depends on it but latency: relays poll, waiters look again. So it never raises, never holds
anybody up, and what is rung while one PUBLISH is on its way goes out together in the next. What
running jobs say of their progress goes the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import redis.asyncio
import structlog

from goodsyard import progress
from goodsyard.breaker import Breaker
from goodsyard.progress import Word

DUE = "goodsyard:due"
"""Channel: kinds that have a job due, separated by spaces."""
CHANGED = "goodsyard:changed"
"""Channel: ids of jobs, and of the orders and payments they worked on, that reached an end."""

_log = structlog.get_logger(__name__)


class _MendedSend:
    """A connection of redis-py's whose sends neither hide a reset nor swallow a cancellation.

    uvloop answers a write to a transport that a reset has closed with a RuntimeError, which
    redis-py 8 passes on as it is: to its callers that isn't Redis being away, it is a bug.

    And redis-py 8 sends under ``asyncio.wait_for``, which until Python 3.12 returns as if nothing
    were when it is cancelled just as it ends (https://github.com/python/cpython/issues/86296): a
    listener so told to stop would listen for ever, and whoever awaits its end would, too.
    """

    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        """Send, as redis-py does (the arguments are its own).

        Raises:
            redis.ConnectionError: the connection is gone; the pool makes it anew.
            asyncio.CancelledError: the task was cancelled; so is the connection, with its answer.
        """
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        try:
            # The class beside this one has it.
            await super().send_packed_command(*arguments, **options)  # type: ignore[misc]
        except RuntimeError as error:
            raise redis.ConnectionError(str(error)) from error
        if task and task.cancelling() > cancelled:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]  # its neighbour's, too
            raise asyncio.CancelledError


class _Connection(_MendedSend, redis.asyncio.Connection):
    """Plain."""


class _SSLConnection(_MendedSend, redis.asyncio.SSLConnection):
    """Encrypted."""


def connect(url: str) -> redis.asyncio.Redis:
    """Return a Redis client whose every call ends within a second or two, come what may."""
    client = redis.asyncio.Redis.from_url(
        url, decode_responses=True, socket_timeout=1.0, socket_connect_timeout=1.0
    )
    pool = client.connection_pool
    encrypted = issubclass(pool.connection_class, redis.asyncio.SSLConnection)
    pool.connection_class = _SSLConnection if encrypted else _Connection
    return client


class Doorbell:
    """Rings on one Redis connection, from one event loop."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        """Ring through ``client``."""
        self._client = client
        self._due: set[str] = set()
        self._changed: set[UUID] = set()
        self._ringing: asyncio.Task[None] | None = None
        self._saying = Breaker("progress")

    def ring(self, *, due: Iterable[str] = (), changed: Iterable[UUID] = ()) -> None:
        """Say, after the commit, which kinds have work and which ids have news; returns at once."""
        self._due.update(due)
        self._changed.update(changed)
        if (self._due or self._changed) and (self._ringing is None or self._ringing.done()):
            self._ringing = asyncio.create_task(self._ring())

    async def say(self, words: Sequence[Word]) -> bool:
        """Tell how far jobs are; returns whether it could be told."""

        async def said() -> bool:
            await progress.say(self._client, words)
            return True

        return await self._saying.ask(said, otherwise=False)

    async def close(self) -> None:
        """Let a last ring go out."""
        if self._ringing is not None:
            await self._ringing

    async def _ring(self) -> None:
        while self._due or self._changed:
            due, self._due = self._due, set()
            changed, self._changed = self._changed, set()
            with suppress(redis.RedisError, OSError):
                if due:
                    await self._client.publish(DUE, " ".join(due))
                if changed:
                    await self._client.publish(CHANGED, " ".join(map(str, changed)))
                continue
            _log.debug("doorbell.unheard", due=len(due), changed=len(changed))
