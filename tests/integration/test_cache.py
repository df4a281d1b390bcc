"""The cache: computed once for all, never behind a write, done without when Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from sqlalchemy.engine import make_url

from goodsyard import breaker
from goodsyard import cache as cache_module
from goodsyard.breaker import Breaker
from goodsyard.cache import CacheService
from goodsyard.doorbell import connect
from tests.harness.proxy import Proxy


class Source:
    """Where a value really is; computing it can be held up."""

    def __init__(self, value: str = "old") -> None:
        self.value: str | None = value
        self.computed = 0
        self.read = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def compute(self) -> str | None:
        """Read, and answer once that is allowed."""
        self.computed += 1
        value = self.value
        self.read.set()
        await self.go_on.wait()
        return value

    async def read_held_up(self, cache: CacheService) -> asyncio.Task[str | None]:
        """Begin to read through ``cache``; return once the value is read, and not yet answered."""
        self.go_on.clear()
        reading = asyncio.create_task(cache.read("a", 60, self.compute))
        await self.read.wait()
        self.read.clear()
        return reading


@pytest.fixture
async def clients(redis_url: str) -> AsyncIterator[list[redis.asyncio.Redis]]:
    """Connections as two processes have them: made already, however busy this machine is."""
    opened = [connect(redis_url), connect(redis_url)]
    for client in opened:
        await asyncio.gather(*(client.ping() for _ in range(25)))
    yield opened
    for client in opened:
        await client.aclose()


@pytest.fixture
def caches(clients: list[redis.asyncio.Redis]) -> list[CacheService]:
    """The cache as two processes see it."""
    return [CacheService(client, Breaker("cache")) for client in clients]


async def test_a_value_lives_as_long_as_it_was_to(
    caches: list[CacheService], clients: list[redis.asyncio.Redis]
) -> None:
    here, there = caches
    assert await here.get("a") is None
    await here.set("a", "=1?", 60)
    assert await there.get("a") == "=1?"
    assert 0 < await clients[0].pttl("goodsyard:cache:a") <= 60_000


async def test_one_caller_computes_for_all_processes(caches: list[CacheService]) -> None:
    source = Source()
    source.go_on.clear()
    reads = [
        asyncio.create_task(caches[number % 2].read("a", 60, source.compute))
        for number in range(50)
    ]
    await source.read.wait()
    source.go_on.set()
    assert set(await asyncio.gather(*reads)) == {"old"}
    assert source.computed == 1


async def test_a_read_that_began_before_a_write_does_not_put_the_old_value_back(
    caches: list[CacheService],
) -> None:
    here, there = caches
    source = Source()
    early = await source.read_held_up(here)
    async with there.changing("a"):
        source.value = "new"
    source.go_on.set()
    assert await early == "old"  # it asked before the write
    assert await here.read("a", 60, source.compute) == "new"
    assert await there.read("a", 60, source.compute) == "new"


async def test_while_something_changes_it_is_read_where_it_is(caches: list[CacheService]) -> None:
    here, there = caches
    source = Source()
    await here.read("a", 60, source.compute)
    async with there.changing("a"):
        source.value = "new"
        assert await here.read("a", 60, source.compute) == "new"
        source.value = "newer"  # what was read in between was not kept
        assert await here.read("a", 60, source.compute) == "newer"


async def test_a_change_that_fails_leaves_nothing_closed(caches: list[CacheService]) -> None:
    here, _ = caches
    source = Source()
    with pytest.raises(LookupError):
        async with here.changing("a"):
            raise LookupError
    for _ in range(2):
        assert await here.read("a", 60, source.compute) == "old"
    assert source.computed == 1


async def test_who_asks_after_a_write_never_joins_a_read_from_before(
    caches: list[CacheService],
) -> None:
    here, _ = caches
    source = Source()
    early = await source.read_held_up(here)
    async with here.changing("a"):
        source.value = "new"
    late = asyncio.create_task(here.read("a", 60, source.compute))
    await source.read.wait()
    source.go_on.set()
    assert (await early, await late) == ("old", "new")


async def test_a_computation_that_fails_leaves_the_next_one_to_compute(
    caches: list[CacheService],
) -> None:
    here, there = caches

    async def fail() -> str:
        raise LookupError

    with pytest.raises(LookupError):
        await here.read("a", 60, fail)
    source = Source()
    assert await there.read("a", 60, source.compute) == "old"


async def test_nothing_is_not_kept(caches: list[CacheService]) -> None:
    here, there = caches
    source = Source()
    source.value = None
    assert await here.read("a", 60, source.compute) is None
    source.value = "there now"
    assert await there.read("a", 60, source.compute) == "there now"


async def test_a_caller_does_not_wait_for_one_who_died(
    caches: list[CacheService], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = caches
    monkeypatch.setattr(cache_module, "PATIENCE_SECONDS", 0.1)
    dead = Source()
    dead.go_on.clear()
    dying = asyncio.create_task(here.read("a", 60, dead.compute))
    await dead.read.wait()
    source = Source("mine")
    assert await there.read("a", 60, source.compute) == "mine"
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying
    monkeypatch.undo()
    assert await there.read("a", 60, source.compute) == "mine"  # the lease went with it
    assert await there.get("a") == "mine"


async def test_a_lease_that_nobody_gives_back_ends(
    caches: list[CacheService],
    clients: list[redis.asyncio.Redis],
) -> None:
    source = Source()
    source.go_on.clear()
    reading = asyncio.create_task(caches[0].read("a", 60, source.compute))
    await source.read.wait()
    assert 0 < await clients[0].pttl("goodsyard:cache:a") <= cache_module.LEASE_SECONDS * 1_000
    source.go_on.set()
    await reading


async def test_a_pattern_forgets_what_matches_it_and_reads_under_way(
    caches: list[CacheService],
) -> None:
    here, there = caches
    for number in range(1_200):  # more than one step of the search
        await here.set(f"user:1:{number}", "x", 60)
    await here.set("user:2:1", "y", 60)
    source = Source()
    source.go_on.clear()
    reading = asyncio.create_task(here.read("user:1:late", 60, source.compute))
    await source.read.wait()
    assert await there.invalidate("user:1:*")
    source.go_on.set()
    await reading
    left = [await here.get(f"user:1:{number}") for number in ("0", "600", "1199", "late")]
    assert left == [None] * 4
    assert await here.get("user:2:1") == "y"


async def test_without_redis_each_read_is_computed_and_a_change_is_told_when_it_is_back(
    redis_url: str, caches: list[CacheService], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 0)
    elsewhere, source = caches[0], Source()
    with Proxy(make_url(redis_url).port or 0) as network:
        client = connect(network.url(redis_url))
        here = CacheService(client, Breaker("cache"))
        assert await here.read("a", 60, source.compute) == "old"
        network.refuse()
        async with here.changing("a"):
            source.value = "new"
        assert await here.read("a", 60, source.compute) == "new"
        assert await here.get("a") is None
        assert not await here.invalidate("*")
        network.heal()
        assert await here.read("a", 60, source.compute) == "new"
        assert await elsewhere.read("a", 60, source.compute) == "new"
        await client.aclose()
