"""How often a caller may ask, over a sliding window; requests that are refused do not count.

Without Redis everybody may: an API that answers unlimited does less harm than one that doesn't.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import redis.asyncio
from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from goodsyard.breaker import Breaker


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller may still do."""

    granted: bool
    limit: int
    remaining: int
    reset_seconds: int
    """Seconds from now until more is allowed again."""

    @property
    def wait_seconds(self) -> int:
        """What a refused caller should wait."""
        return max(1, self.reset_seconds)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that tell it, as ASGI has them."""
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset_seconds),
        ]


class RateLimit:
    """One limit, for any number of callers, shared by all API processes."""

    def __init__(self, client: redis.asyncio.Redis, rate: str, breaker: Breaker) -> None:
        """Allow ``rate`` (as in ``"600/minute"``) to each caller, counted through ``client``."""
        self._item: RateLimitItem = parse(rate)
        self._breaker = breaker
        # The pool is the client's own, with its short timeouts; the address only names the kind.
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            # Its annotation knows scalars alone; its documentation names the pool.
            connection_pool=client.connection_pool,  # type: ignore[arg-type]
            key_prefix="goodsyard:rate",
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    @property
    def untouched(self) -> Allowance:
        """What a caller has who wasn't counted."""
        amount = self._item.amount
        return Allowance(granted=True, limit=amount, remaining=amount, reset_seconds=0)

    async def hit(self, *caller: str) -> Allowance:
        """Count a request of ``caller``, unless it is one too many."""
        return await self._breaker.ask(lambda: self._hit(caller), self.untouched)

    async def _hit(self, caller: tuple[str, ...]) -> Allowance:
        granted = await self._limiter.hit(self._item, *caller)
        left = await self._limiter.get_window_stats(self._item, *caller)
        reset = max(0, math.ceil(left.reset_time - time.time()))
        return Allowance(granted, self._item.amount, left.remaining if granted else 0, reset)
