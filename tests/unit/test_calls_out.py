"""Some calls of a chunk that return late hold no later chunk back."""

from __future__ import annotations

import asyncio

from goodsyard.calls_out import CallsOut

CHUNK = 200
PATIENCE = 0.5
"""Seconds after which a chunk was held back; under those after which a call counts as hanging."""


async def test_a_chunk_does_not_wait_for_the_last_calls_of_the_one_before() -> None:
    calls, late = CallsOut(), asyncio.Event()
    first = [asyncio.create_task(late.wait()) for _ in range(CHUNK // 100)]
    calls.add(first)
    second = [asyncio.create_task(late.wait()) for _ in range(CHUNK)]
    calls.add(second)
    async with asyncio.timeout(PATIENCE):
        await calls.until_room(CHUNK)
    late.set()
    await asyncio.gather(*first, *second)
