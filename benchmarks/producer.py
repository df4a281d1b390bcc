"""A Python program that hands jobs in to Goodsyard: rows of one transaction a batch, durable."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.yard import TENANT
from goodsyard.contracts import Contract
from goodsyard.database import Sessions, open_engine, session_factory
from goodsyard.submit import Staged, stage

BATCH = 1_000
"""Jobs a transaction."""


@asynccontextmanager
async def sessions(url: str) -> AsyncIterator[Sessions]:
    """Open what a producer needs: one connection to the database."""
    engine = open_engine(url, pool_size=1, application_name="goodsyard benchmark")
    try:
        yield session_factory(engine)
    finally:
        await engine.dispose()


async def submit(url: str, contracts: Sequence[Contract]) -> float:
    """Hand jobs in and return how many a second; the first, before the clock runs, connects."""
    async with sessions(url) as made:
        await _submit(made, contracts[:1])
        begin = time.perf_counter()
        for at in range(1, len(contracts), BATCH):
            await _submit(made, contracts[at : at + BATCH])
        return (len(contracts) - 1) / (time.perf_counter() - begin)


async def _submit(made: Sessions, contracts: Sequence[Contract]) -> None:
    async with made.begin() as tx:
        await stage(tx, [Staged(TENANT, contract) for contract in contracts])
