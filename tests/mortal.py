"""Runs one chunk in a process of its own, which its environment may let die on the way.

python -m tests.mortal DATABASE_URL REDIS_URL KIND JOB FENCE
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from goodsyard.database import open_engine, session_factory
from goodsyard.flow import ExternalHandler
from tests.yard import NOTES, Ask, Asker, connect


async def main(database_url: str, redis_url: str, kind: str, job: str, fence: str) -> None:
    """Run the chunk to its end."""
    engine = open_engine(database_url, pool_size=2, application_name="mortal")
    asker: ExternalHandler[Ask, str] = Asker()
    async with connect(session_factory(engine), redis_url) as yard:
        await yard.run(NOTES if kind == NOTES.contract.kind else asker, [(UUID(job), int(fence))])
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
