"""Redis PUBLISH as a doorbell: tells relays what is due and waiters what changed, and may be lost.

Nothing depends on it but latency: relays poll, waiters look again. So it never raises, never holds
anybody up, and what is rung while one PUBLISH is on its way goes out together in the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID

import redis.asyncio
import structlog

DUE = "goodsyard:due"
"""Channel: kinds that have a job due, separated by spaces."""
CHANGED = "goodsyard:changed"
"""Channel: ids of jobs, and of the orders and payments they worked on, that reached an end."""

_log = structlog.get_logger(__name__)


def connect(url: str) -> redis.asyncio.Redis:
    """Return a Redis client whose every call ends within a second or two, come what may."""
    return redis.asyncio.Redis.from_url(
        url, decode_responses=True, socket_timeout=1.0, socket_connect_timeout=1.0
    )


class Doorbell:
    """Rings on one Redis connection, from one event loop."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        """Ring through ``client``."""
        self._client = client
        self._due: set[str] = set()
        self._changed: set[UUID] = set()
        self._ringing: asyncio.Task[None] | None = None

    def ring(self, *, due: Iterable[str] = (), changed: Iterable[UUID] = ()) -> None:
        """Say, after the commit, which kinds have work and which ids have news; returns at once."""
        self._due.update(due)
        self._changed.update(changed)
        if (self._due or self._changed) and (self._ringing is None or self._ringing.done()):
            self._ringing = asyncio.create_task(self._ring())

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
