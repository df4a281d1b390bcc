"""What was read lately, kept in Redis: asked for by many, computed by one, no older than a write.

A key holds a value, or the lease of the one caller who is computing it, or says that its subject is
being changed. Only the holder of the lease may fill the key in; a change takes the lease away. So a
read that began before a write can't put the old value back, in whichever process either happens.
A Redis that is away costs each read its computation, no more. Nothing in here may decide anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar
from uuid import uuid4

import redis.asyncio

from goodsyard.breaker import Breaker

LEASE_SECONDS = 10.0
"""How long others leave a computation to the one who began it: longer than a statement may take. If
its process dies, the next one begins when this has passed."""

PATIENCE_SECONDS = 9.0
"""How long a caller waits for what another one computes; then it computes for itself."""

CHANGE_SECONDS = 30.0
"""How long a change keeps a key closed if nobody lives to open it: longer than a transaction."""

_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.005, 0.1
"""How soon a caller who waits looks again: at first, and after more and more in the end."""

_SCAN_COUNT = 500
"""Keys that Redis looks at in one step of a search: about a tenth of a millisecond of its time."""

_PREFIX = "goodsyard:cache:"
_VALUE, _LEASE, _CLOSED = "=", "?", "!"
"""What the first character of a key's content says about the rest."""

# Returns what is there; where nothing is, the caller's lease, which it leaves there.
_LOOK = """
local kept = redis.call('GET', KEYS[1])
if kept then return kept end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""

# Only in place of what the caller left there: a lease that is gone was overtaken by a change.
_REPLACE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""

T = TypeVar("T")
V = TypeVar("V", str, str | None)


class CacheService:
    """Keys and their values, as text; all processes with one Redis share them."""

    def __init__(self, client: redis.asyncio.Redis, breaker: Breaker) -> None:
        """Keep values through ``client``, which decodes answers, as long as it answers."""
        self._redis = client
        self._breaker = breaker
        self._look = client.register_script(_LOOK)
        self._replace = client.register_script(_REPLACE)
        self._owed: set[str] = set()

    async def get(self, key: str) -> str | None:
        """Return the value of ``key``, if Redis has one and answers."""
        kept = await self._ask(lambda: self._redis.get(_PREFIX + key))
        return kept[1:] if isinstance(kept, str) and kept[0] == _VALUE else None

    async def set(self, key: str, value: str, ttl_seconds: float) -> None:
        """Keep a value that can't be outdated by a write; for others there is ``read``."""
        content = _VALUE + value
        await self._ask(lambda: self._redis.set(_PREFIX + key, content, px=_ms(ttl_seconds)))

    async def invalidate(self, pattern: str) -> bool:
        """Forget every key that matches ``pattern`` (``*``, ``?``, ``[ab]``), and all leases on it.

        It reads through all of Redis, in small steps between which others are served.

        Returns:
            Whether it came to the end; if not, what is left lives as long as it was to.
        """
        cursor = 0
        while True:
            step = await self._ask(partial(self._sweep, _PREFIX + pattern, cursor))
            if not step:
                return step is not None
            cursor = step

    async def read(self, key: str, ttl_seconds: float, compute: Callable[[], Awaitable[V]]) -> V:
        """Return the value of ``key``; where there is none, what ``compute`` returns, for all.

        Of any number of callers, in any number of processes, one computes and the others wait for
        it. If it raises or returns ``None``, nothing is kept and the next one computes.

        Args:
            key: what is read; whoever changes it does so within ``changing``.
            ttl_seconds: how long the value is worth keeping, and how long it lives on after a
                change that neither began nor ended with Redis in reach.
            compute: reads the value where it really is.
        """
        loop = asyncio.get_running_loop()
        give_up_at, pause = loop.time() + PATIENCE_SECONDS, _FIRST_LOOK_SECONDS
        lease = _LEASE + uuid4().hex
        while True:
            kept = await self._ask(lambda: self._take(key, lease))
            if kept == lease:
                return await self._compute(key, lease, ttl_seconds, compute)
            if kept is not None and kept[0] == _VALUE:
                return kept[1:]
            if kept is None or kept[0] == _CLOSED or loop.time() > give_up_at:
                return await compute()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK_SECONDS)

    @asynccontextmanager
    async def changing(self, *keys: str) -> AsyncIterator[None]:
        """Have ``keys`` read where they really are, until what is inside has changed that.

        The transaction belongs inside, whole. A process that dies in between leaves the keys
        closed, which is right; one that reaches Redis at neither end tries again at its next
        call.
        """
        await self._ask(lambda: self._close(keys))
        try:
            yield
        finally:
            self._owed.update(keys)
            await self._breaker.ask(self._pay, None)

    async def _take(self, key: str, lease: str) -> str:
        kept: str = await self._look([_PREFIX + key], [lease, _ms(LEASE_SECONDS)])
        return kept

    async def _compute(
        self, key: str, lease: str, ttl_seconds: float, compute: Callable[[], Awaitable[V]]
    ) -> V:
        content = ""
        try:
            value = await compute()
            if value is not None:
                content = _VALUE + value
        finally:
            await self._ask(
                lambda: self._replace([_PREFIX + key], [lease, content, _ms(ttl_seconds)])
            )
        return value

    async def _sweep(self, pattern: str, cursor: int) -> int:
        """Forget what one step of a search finds, and return where the next one begins, or 0."""
        following, found = await self._redis.scan(cursor, match=pattern, count=_SCAN_COUNT)
        if found:
            await self._redis.unlink(*found)
        return int(following)

    async def _close(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            await self._redis.set(_PREFIX + key, _CLOSED, px=_ms(CHANGE_SECONDS))

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """Return what Redis answers, or ``None``; first tell it what it should have been told."""

        async def paid_up() -> T:
            await self._pay()
            return await call()

        return await self._breaker.ask(paid_up, None)

    async def _pay(self) -> None:
        owed = tuple(self._owed)
        if owed:
            await self._redis.unlink(*(_PREFIX + key for key in owed))
            self._owed.difference_update(owed)


def _ms(seconds: float) -> int:
    return int(seconds * 1_000)
