"""What was dropped is counted where an operator looks, and counting holds nobody up."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.exc import OperationalError

from goodsyard import dropped
from goodsyard.database import Sessions
from goodsyard.dropped import Reason
from tests.integration.conftest import Api


async def test_counts_add_up_over_all_workers(sessions: Sessions) -> None:
    async with sessions.begin() as tx:
        assert await dropped.read(tx) == dict.fromkeys(Reason, 0)

    async def work(reason: Reason) -> None:
        async with sessions.begin() as tx:
            await dropped.add(tx, {reason: 2, Reason.STALE: 1})

    await asyncio.gather(*map(work, [Reason.MALFORMED, Reason.MALFORMED, Reason.UNKNOWN]))
    async with sessions.begin() as tx:
        counted = await dropped.read(tx)
    assert counted == {"stale": 3, "malformed": 4, "unknown": 2, "unreadable": 0}


async def test_who_stands_still_while_counting_holds_up_the_others_for_a_moment_only(
    sessions: Sessions,
) -> None:
    async with sessions.begin() as frozen:
        await dropped.add(frozen, {Reason.STALE: 1})
        async with asyncio.timeout(1):
            with pytest.raises(OperationalError):
                async with sessions.begin() as tx:
                    await dropped.add(tx, {Reason.STALE: 1})


async def test_metrics_show_what_was_dropped_by_reason(api: Api) -> None:
    async with api.sessions.begin() as tx:
        await dropped.add(tx, {Reason.UNREADABLE: 7})
    metrics = (await api.http.get("/metrics")).text
    assert 'goodsyard_dropped_total{reason="unreadable"} 7.0' in metrics
    assert 'goodsyard_dropped_total{reason="stale"} 0.0' in metrics
