"""Counts the calls that a process has out, and says when there is room for another chunk's."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

HANGING_SECONDS = 1.0
"""A call that takes longer takes no room: those that hang must hold no others back."""

MOST = 1_000
"""Calls out at the most, those that hang included: one in a hundred may hang for as long as any."""


@dataclass(slots=True)
class _Chunk:
    began: float
    out: int


class CallsOut:
    """The calls of one process, on one event loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self._chunks: list[_Chunk] = []
        self._returned = asyncio.Event()

    def add(self, calls: Collection[asyncio.Task[Any]]) -> None:
        """Count a chunk's calls until each is over."""
        chunk = _Chunk(asyncio.get_running_loop().time(), len(calls))
        self._chunks.append(chunk)

        def returned(_: asyncio.Task[Any]) -> None:
            chunk.out -= 1
            if chunk.out == 0:
                self._chunks.remove(chunk)
            self._returned.set()

        for call in calls:
            call.add_done_callback(returned)

    async def until_room(self, most: int) -> None:
        """Wait until no more than ``most`` calls are out, not counting those that hang.

        Half as many more will do: else one call that doesn't return with its chunk, and isn't known
        to hang yet, has the next chunk wait for the one after it (if 1 call in 100 hangs, that is
        40 % fewer calls a second).
        """
        while self._lively() > most + most // 2 or sum(chunk.out for chunk in self._chunks) > MOST:
            self._returned.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(HANGING_SECONDS):
                    await self._returned.wait()

    def _lively(self) -> int:
        hanging = asyncio.get_running_loop().time() - HANGING_SECONDS
        return sum(chunk.out for chunk in self._chunks if chunk.began > hanging)
