"""What was looked up is remembered for a few seconds, and looked up once however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_MOST = 10_000  # a few megabytes; names of nothing count too

N = TypeVar("N")
V = TypeVar("V")


class Remembered(Generic[N, V]):
    """Looks things up by name, on one event loop."""

    def __init__(self, look_up: Callable[[N], Awaitable[V]], seconds: float) -> None:
        """Look up by ``look_up``, and go by what it returned for ``seconds``."""
        self._ask = look_up
        self._seconds = seconds
        self._found: dict[N, tuple[float, asyncio.Task[V]]] = {}

    async def find(self, name: N) -> V:
        """Return what ``name`` is, or was some seconds ago.

        Raises:
            Exception: what looking it up raised; the next caller tries again.
        """
        now = asyncio.get_running_loop().time()
        good_until, lookup = self._found.get(name, (0.0, None))
        if lookup is None or now >= good_until:
            if len(self._found) >= _MOST:
                self._found.clear()
            lookup = asyncio.create_task(self._look_up(name))
            self._found[name] = (now + self._seconds, lookup)
        try:
            # Shielded: who asked first may hang up, and others wait for the same answer.
            return await asyncio.shield(lookup)
        except Exception:
            self.forget(name)
            raise

    def forget(self, name: N) -> None:
        """Look ``name`` up again at its next use: it was just changed here."""
        self._found.pop(name, None)

    async def _look_up(self, name: N) -> V:
        return await self._ask(name)
