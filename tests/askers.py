"""Providers that answer late, or do something else when they are asked for ``bad``."""

from __future__ import annotations

import asyncio

from goodsyard.job import Job
from tests.yard import Ask, Asker, Yard

PATIENCE = 3.0
"""Seconds that are plenty for a chunk, and far less than a call may take."""


class Slow(Asker):
    """Answers only once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def call(self, job: Job[Ask]) -> str:
        """Answer once it may."""
        answer = await super().call(job)
        await self.may_answer.wait()
        return answer


class Picky(Asker):
    """Does something else when it is asked for ``bad``."""

    async def call(self, job: Job[Ask]) -> str:
        answer = await super().call(job)
        return await self.bad() if answer == "bad" else answer

    async def bad(self) -> str:
        """Do it."""
        raise NotImplementedError


async def called(asker: Asker, times: int = 1) -> bool:
    """Whether the provider was asked so often."""
    return len(asker.calls) == times


async def asked_in_vain(yard: Yard, asker: Asker) -> tuple[str | None, list[str]]:
    """Return the error of the one job that got no answer, and the answers of its neighbours."""
    deliveries = await yard.deliver(Ask(line="a"), Ask(line="bad"), Ask(line="b"))
    async with asyncio.timeout(PATIENCE):
        await yard.run(asker, deliveries)
    states = await yard.states([job for job, _ in deliveries])
    assert states == ["succeeded", "waiting", "succeeded"]
    bad = await yard.job(deliveries[1][0])
    assert bad.attempts == 1
    return bad.error, await yard.notes()
