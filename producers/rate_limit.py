"""How often a caller may ask, over a sliding window; a request that is refused doesn't count.

One command to Redis counts a request, decides and tells what is left; see docs/decisions/0009.
Without Redis everybody may: an API that answers unlimited does less harm than one that doesn't.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Self

import redis.asyncio

from goodsyard.breaker import Breaker

_UNITS: Final = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")

# The window slides by weighing what was counted in the last fixed one by how much of it is still
# within: at most wrong by how unevenly those requests came. Redis's clock is everybody's.
_COUNT = """
local limit, length, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local window, into = math.floor(now / length), now % length
local kept = redis.call('HMGET', KEYS[1], 'window', 'count', 'before')
local count, before = 0, 0
if kept[1] then
    local age = window - tonumber(kept[1])
    if age == 0 then
        count, before = tonumber(kept[2]), tonumber(kept[3])
    elseif age == 1 then
        before = tonumber(kept[2])
    end
end
local used = count + before * (length - into) / length
if used + cost > limit then
    local wait
    if count + cost <= limit then
        wait = length * (1 - (limit - cost - count) / before) - into
    else
        wait = length - into + length * (1 - (limit - cost) / count)
    end
    return {0, 0, math.ceil(wait)}
end
count = math.max(0, count + cost)
redis.call('HSET', KEYS[1], 'window', window, 'count', count, 'before', before)
redis.call('PEXPIRE', KEYS[1], 2 * length - into)
return {1, math.floor(limit - used - cost), length - into}
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds."""

    amount: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the rate in ``text``, as in ``600/minute``.

        Raises:
            ValueError: it is none.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no rate like 600/minute (second, minute, hour or day)")
        return cls(int(match[1]), _UNITS[match[2]])


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

    def __init__(
        self, client: redis.asyncio.Redis, name: str, rate: Rate, breaker: Breaker
    ) -> None:
        """Allow ``rate`` to each caller, counted through ``client`` under ``name``."""
        self._name = name
        self._rate = rate
        self._breaker = breaker
        self._count = client.register_script(_COUNT)
        self.untouched = Allowance(
            granted=True, limit=rate.amount, remaining=rate.amount, reset_seconds=0
        )
        """What a caller has who wasn't counted."""

    async def hit(self, caller: str) -> Allowance:
        """Count a request of ``caller``, unless it is one too many."""
        return await self._breaker.ask(lambda: self._add(caller, 1), self.untouched)

    async def give_back(self, caller: str) -> None:
        """Take a request of ``caller`` back: it turned out to be none that counts."""
        await self._breaker.ask(lambda: self._add(caller, -1), self.untouched)

    async def _add(self, caller: str, cost: int) -> Allowance:
        granted, remaining, milliseconds = await self._count(
            [f"goodsyard:rate:{self._name}:{caller}"],
            [self._rate.amount, self._rate.seconds * 1_000, cost],
        )
        seconds = math.ceil(milliseconds / 1_000)
        return Allowance(bool(granted), self._rate.amount, remaining, seconds)
