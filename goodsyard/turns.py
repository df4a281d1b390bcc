"""Lets calls of a kind go a few abreast in a process, as many as its provider takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

TURN_SECONDS = 15.0
"""How long a claimed job waits for its turn where calls go a few abreast. It is put back then, as
if never claimed: so its worker is free again before the hard time limit, and a drain ends."""


class Turns:
    """The turns of one process, on one event loop."""

    def __init__(self) -> None:
        """Begin with nobody's turn."""
        self._kinds: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def take(self, kind: str, abreast: int, seconds: float) -> AsyncIterator[bool]:
        """Wait until a call of ``kind`` may begin; tells whether it may, or has waited too long.

        Args:
            kind: of the job, or whatever else has a line of its own.
            abreast: calls of the kind that may be out at a time.
            seconds: how long is too long.
        """
        turns = self._kinds.setdefault(kind, asyncio.Semaphore(abreast))
        is_ours = False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                is_ours = await turns.acquire()
        try:
            yield is_ours
        finally:
            if is_ours:
                turns.release()
