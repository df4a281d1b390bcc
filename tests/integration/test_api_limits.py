"""How often a caller may ask: by plan and group of calls, in one command a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import redis.asyncio
from pydantic import ValidationError

from commerce.accounts.keys import create_api_key
from commerce.accounts.plans import set_plan
from goodsyard.breaker import Breaker
from goodsyard.database import Sessions
from producers import authentication
from producers.app import create_app
from producers.rate_limit import Rate, RateLimit
from producers.settings import ApiSettings
from tests.integration.conftest import Api


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    opened = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    yield opened
    await opened.aclose()


@asynccontextmanager
async def limited(
    settings: ApiSettings, sessions: Sessions, rates: dict[str, str]
) -> AsyncIterator[Api]:
    """Give an API with these rates, and a caller whose plan has them."""
    app = create_app(settings.model_copy(update={"api_rates": rates}))
    async with sessions.begin() as tx:
        key = await create_api_key(tx, "shop", "limited", ["admin"])
    headers = {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api.test", headers=headers) as http,
    ):
        yield Api(http, app, sessions)


async def test_reads_writes_and_bulks_are_counted_apart(
    api_settings: ApiSettings, sessions: Sessions
) -> None:
    rates = {"standard/read": "3/hour", "standard/write": "2/hour", "standard/bulk": "1/hour"}
    async with limited(api_settings, sessions, rates) as api:
        calls = (
            ("GET", "/v1/orders", 3),
            ("PUT", "/v1/stock/CD", 2),
            ("POST", "/v1/orders/bulk", 1),
        )
        for method, path, allowed in calls:
            body: dict[str, object] | None = {} if method != "GET" else None
            answers = [await api.http.request(method, path, json=body) for _ in range(allowed + 1)]
            assert [answer.status_code == 429 for answer in answers] == [False] * allowed + [True]
            assert {answer.headers["RateLimit-Limit"] for answer in answers} == {str(allowed)}


async def test_a_plan_that_is_changed_holds_within_seconds(
    api_settings: ApiSettings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "REMEMBER_SECONDS", 0.2)
    rates = {"free/read": "2/hour", "standard/read": "9/hour"}
    async with limited(api_settings, sessions, rates) as api:
        assert (await api.http.get("/v1/orders")).headers["RateLimit-Limit"] == "9"
        for plan, limit in (("free", "2"), ("unlimited", "9")):
            async with sessions.begin() as tx:
                assert await set_plan(tx, "shop", plan)
                assert not await set_plan(tx, "nobody", plan)
            async with asyncio.timeout(5):
                answer = await api.http.get("/v1/orders")
                while not (
                    answer.headers["RateLimit-Limit"] == limit
                    and (plan != "unlimited" or answer.headers["RateLimit-Remaining"] == limit)
                ):
                    answer = await api.http.get("/v1/orders")
        answers = [await api.http.get("/v1/orders") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}


async def _commands(client: redis.asyncio.Redis) -> int:
    stats = await client.info("commandstats")
    return sum(
        stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval", "get")
    )


async def test_a_request_costs_one_command_and_an_unlimited_one_none(
    api_settings: ApiSettings, sessions: Sessions, client: redis.asyncio.Redis
) -> None:
    async with limited(api_settings, sessions, {}) as api:
        unlimited = await api.caller("orders:read")
        await api.http.get("/v1/orders")  # loads the script
        before = await _commands(client)
        for _ in range(10):
            await api.http.get("/v1/orders")
        assert await _commands(client) - before == 10
        for _ in range(10):
            await api.http.get("/v1/orders", headers=unlimited)
        assert await _commands(client) - before == 10


async def test_of_many_at_once_as_many_are_let_in_as_may(client: redis.asyncio.Redis) -> None:
    limit = RateLimit(client, "test", Rate.parse("20/hour"), Breaker("test"))
    await asyncio.gather(*(client.ping() for _ in range(60)))  # connects, for each
    told = await asyncio.gather(*(limit.hit("somebody") for _ in range(60)))
    assert sum(each.granted for each in told) == 20
    assert sorted(each.remaining for each in told if each.granted) == list(range(20))


async def test_who_waits_as_told_is_let_in_and_not_before(client: redis.asyncio.Redis) -> None:
    """By Redis's clock, moved by moving what it counted: the window slides, it doesn't jump."""
    limit = RateLimit(client, "test", Rate.parse("10/day"), Breaker("test"))
    name = "goodsyard:rate:test:somebody"
    seconds, microseconds = await client.time()
    day, into = divmod(seconds + microseconds / 1e6, 86_400)
    faded = 10 * (1 - into / 86_400)  # what is left of ten requests of yesterday
    await client.hset(name, mapping={"window": int(day) - 1, "count": 10, "before": 0})
    told = [await limit.hit("somebody") for _ in range(12)]
    let_in = sum(each.granted for each in told)
    assert let_in in {int(10 - faded), int(10 - faded) + 1}
    refused = told[-1]
    wait = refused.reset_seconds
    # One is let in once a tenth more of yesterday's ten has faded, which takes 2.4 hours at most;
    # when all of them are today's, tomorrow.
    assert 0 < wait <= (86_400 / 10 + 1 if let_in < 10 else 2 * 86_400)
    assert await client.hget(name, "count") == str(let_in)


async def test_a_refused_request_does_not_count_against_the_next(
    client: redis.asyncio.Redis,
) -> None:
    limit = RateLimit(client, "test", Rate.parse("2/day"), Breaker("test"))
    told = [await limit.hit("somebody") for _ in range(50)]
    assert [each.granted for each in told] == [True] * 2 + [False] * 48
    assert await client.hget("goodsyard:rate:test:somebody", "count") == "2"
    await limit.give_back("somebody")
    assert (await limit.hit("somebody")).granted
    assert (await limit.hit("another")).granted


@pytest.mark.parametrize(
    "rates",
    [
        '{"gold/read": "1/minute"}',
        '{"free/read": "0/minute"}',
        '{"free/read": "1/week"}',
        "5/second",
    ],
)
def test_a_rate_that_is_none_stops_the_process(rates: str, api_settings: ApiSettings) -> None:
    with pytest.raises((ValidationError, ValueError)):
        ApiSettings.model_validate(
            api_settings.model_dump()
            | {"api_rates": rates if rates[0] != "{" else json.loads(rates)}
        )
