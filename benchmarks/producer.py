"""A Python program that hands jobs in to Goodsyard, with what the package has for that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.servers import Ground
from benchmarks.yard import TENANT
from goodsyard import doorbell
from goodsyard.contracts import Contract
from goodsyard.database import open_engine, session_factory
from goodsyard.express import Express
from goodsyard.producer import Producer

BATCH = 1_000
"""Jobs a commit."""


@asynccontextmanager
async def connected(ground: Ground, tenant: int = TENANT) -> AsyncIterator[Producer]:
    """Open what a tenant's producer needs: one connection to Postgres and one to Redis."""
    engine = open_engine(
        ground.sqlalchemy, pool_size=1, application_name="goodsyard benchmark", keep_plans=True
    )
    client = doorbell.connect(ground.redis)
    bell, sessions = doorbell.Doorbell(client), session_factory(engine)
    lane = Express(sessions, client)
    listening = asyncio.create_task(lane.run())
    try:
        yield Producer(sessions, bell, tenant, lane)
    finally:
        listening.cancel()
        await lane.close()
        await bell.close()
        await client.aclose()
        await engine.dispose()


async def submit(ground: Ground, contracts: Sequence[Contract]) -> float:
    """Hand jobs in and return how many a second; the first, before the clock runs, connects."""
    async with connected(ground) as producer:
        await producer.submit(contracts[0])
        begin = time.perf_counter()
        for at in range(1, len(contracts), BATCH):
            async with producer.batch() as batch:
                for contract in contracts[at : at + BATCH]:
                    batch.add(contract)
        return (len(contracts) - 1) / (time.perf_counter() - begin)
