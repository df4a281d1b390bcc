"""Where a provider takes a few calls at a time, waiting for a turn is no part of any call."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import ClassVar

import pytest

from goodsyard import calling, turns
from goodsyard.contracts import Policy
from goodsyard.job import Job
from tests.askers import PATIENCE
from tests.yard import Ask, Asker, Yard, until


class AskInTurn(Ask):
    """Asks somebody who listens to two at a time."""

    kind: ClassVar[str] = "test.ask_in_turn"
    policy: ClassVar[Policy] = Policy(queue="payments", abreast=2)


class Busy(Asker):
    """Answers two at a time, each after a while, and notes how many it listened to at once."""

    contract = AskInTurn

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.listening = 0
        self.most = 0

    async def call(self, job: Job[Ask]) -> str:
        self.listening += 1
        self.most = max(self.most, self.listening)
        await asyncio.sleep(self.seconds)
        self.listening -= 1
        return await super().call(job)


async def test_no_more_calls_are_out_than_the_provider_takes(yard: Yard) -> None:
    busy = Busy(0.05)
    await yard.run(busy, await yard.deliver(*(AskInTurn(line=str(n)) for n in range(9))))
    assert (len(busy.calls), busy.most) == (9, 2)


async def test_a_calls_time_begins_with_its_turn(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "CALL_SECONDS", 0.5)
    busy = Busy(0.2)
    deliveries = await yard.deliver(*(AskInTurn(line=str(n)) for n in range(10)))
    await yard.run(busy, deliveries)  # the last of them waited for 0.8 s
    assert await yard.states([job for job, _ in deliveries]) == ["succeeded"] * 10
    assert len(busy.calls) == 10


async def test_a_job_that_waits_too_long_for_its_turn_keeps_its_place_and_its_attempts(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.1)
    busy = Busy(0.5)
    deliveries = await yard.deliver(*(AskInTurn(line=str(n)) for n in range(4)))
    before = await _due(yard)
    async with asyncio.timeout(PATIENCE):
        await yard.run(busy, deliveries)
    states = await yard.states([job for job, _ in deliveries])
    assert states == ["succeeded", "succeeded", "waiting", "waiting"]
    assert await _due(yard) == before[2:]
    left = await yard.job(deliveries[3][0])
    assert (left.attempts, left.error) == (0, None)
    assert len(busy.calls) == 2, "what is put back was never called"


async def _due(yard: Yard) -> list[datetime]:
    return [row.run_at for row in await yard.sql("SELECT run_at FROM goodsyard.job ORDER BY id")]


class Held(Asker):
    """Answers its first two calls when it is let, and no other."""

    contract = AskInTurn

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.out = 0
        self.let = asyncio.Event()

    async def call(self, job: Job[Ask]) -> str:
        self.begun += 1
        self.out += 1
        try:
            await (self.let if self.begun <= 2 else asyncio.Event()).wait()
            return await super().call(job)
        finally:
            self.out -= 1


async def test_no_call_begins_once_nobody_can_write_its_answer_down(yard: Yard) -> None:
    held = Held()
    deliveries = await yard.deliver(*(AskInTurn(line=str(n)) for n in range(8)))
    executor = yard.executor(held)
    running = asyncio.create_task(executor.run(AskInTurn.kind, deliveries))

    async def both_are_out() -> bool:
        return held.out == 2

    async def none_is_out() -> bool:
        return held.out == 0

    await until(both_are_out, "the first two calls")
    await yard.sql("ALTER TABLE goodsyard.job RENAME TO gone")
    held.let.set()
    try:
        await running
        await executor.drain()
    finally:
        await yard.sql("ALTER TABLE goodsyard.gone RENAME TO job")
    await until(none_is_out, "the calls that had begun meanwhile to be given up")
    assert held.begun <= 4
