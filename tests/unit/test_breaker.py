"""A service that just failed is done without, for a moment, by everybody."""

from __future__ import annotations

import asyncio

import pytest
import redis

from goodsyard import breaker
from goodsyard.breaker import Breaker


class Service:
    """Counts who asks, and fails as told."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails: Exception | None = None

    async def answer(self) -> str:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return "yes"


async def ask(guard: Breaker, service: Service) -> str:
    return await guard.ask(service.answer, "no idea")


async def test_what_a_service_answers_is_returned() -> None:
    guard, service = Breaker("test"), Service()
    assert await ask(guard, service) == "yes"
    assert guard.skipped == 0


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), OSError("gone"), TimeoutError()])
async def test_one_that_fails_is_not_asked_again_at_once(error: Exception) -> None:
    guard, service = Breaker("test"), Service()
    service.fails = error
    assert [await ask(guard, service) for _ in range(5)] == ["no idea"] * 5
    assert (service.asked, guard.skipped) == (1, 5)


async def test_one_that_says_nothing_costs_one_caller_a_short_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breaker, "PATIENCE_SECONDS", 0.05)
    guard = Breaker("test")

    async def silence() -> str:
        await asyncio.Event().wait()
        return "never"

    async with asyncio.timeout(2):
        assert await guard.ask(silence, "no idea") == "no idea"
        assert await guard.ask(silence, "no idea") == "no idea"


async def test_after_the_pause_one_caller_tries_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, service = Breaker("test"), Service()
    service.fails = redis.ConnectionError("gone")
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 0.0)
    await ask(guard, service)
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 60.0)
    assert await asyncio.gather(*(ask(guard, service) for _ in range(5))) == ["no idea"] * 5
    assert service.asked == 2


async def test_one_that_is_back_is_asked_by_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, service = Breaker("test"), Service()
    service.fails = redis.ConnectionError("gone")
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 0.0)
    await ask(guard, service)
    service.fails = None
    assert [await ask(guard, service) for _ in range(3)] == ["yes"] * 3


async def test_a_mistake_of_ours_is_not_taken_for_an_outage() -> None:
    guard, service = Breaker("test"), Service()
    service.fails = KeyError("ours")
    with pytest.raises(KeyError, match="ours"):
        await ask(guard, service)
