"""Lets callers do without a service that just failed: its outage costs one of them a short wait.

For what may be skipped only (a cache, the API's rate limit), never for what decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis
import structlog

PATIENCE_SECONDS = 0.25
"""What one call may take. Redis answers in a millisecond; a busy event loop can add a hundred."""

PAUSE_SECONDS = 2.0
"""How long nobody asks after a failure; then one caller tries for all."""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Breaker:
    """Guards calls to one Redis, on one event loop."""

    def __init__(self, name: str) -> None:
        """Guard calls to what the log and the metrics call ``name``."""
        self.name = name
        self._ask_again_at = 0.0
        self._failing = False
        self.skipped = 0
        """Calls answered without asking, or whose answer never came; for the metrics."""

    async def ask(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return what ``call`` returns, or ``otherwise`` where Redis doesn't answer in time."""
        now = asyncio.get_running_loop().time()
        if now < self._ask_again_at:
            self.skipped += 1
            return otherwise
        if self._failing:
            self._ask_again_at = now + PAUSE_SECONDS  # the others go on while this one tries
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await call()
        except (redis.RedisError, OSError) as error:  # TimeoutError is an OSError
            self.skipped += 1
            self._fail(error)
            return otherwise
        self._recover()
        return answer

    def _fail(self, error: Exception) -> None:
        self._ask_again_at = asyncio.get_running_loop().time() + PAUSE_SECONDS
        if not self._failing:
            _log.warning("redis.skipped", use=self.name, error=f"{type(error).__name__}: {error}")
        self._failing = True

    def _recover(self) -> None:
        if self._failing:
            _log.info("redis.back", use=self.name)
            self._failing = False
            self._ask_again_at = 0.0
