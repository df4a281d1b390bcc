"""Takes a job in by one statement that commits itself: its key and its row, or neither."""

from __future__ import annotations

from sqlalchemy import text

from goodsyard import request_keys
from goodsyard.database import Sessions, in_time
from goodsyard.submit import Staged, as_columns, staging
from producers.idempotency import RequestKey

_STAGE = text(f"""
    WITH won AS ({request_keys.claiming()}),
    staged AS ({staging("EXISTS (SELECT FROM won)")})
    SELECT EXISTS (SELECT FROM won)
""")  # noqa: S608 - no value gets in here, only SQL of our own


async def stage_under_key(sessions: Sessions, key: RequestKey, staged: Staged) -> bool:
    """Stage a job under a request's key, in one round trip; commits.

    Args:
        sessions: where to.
        key: the request's.
        staged: the job. It has no ``unique_key``: whether that is free isn't known before.

    Returns:
        Whether it was staged. If not, another request has the key.

    Raises:
        KeyInFlightError: an equal request hasn't ended in time. Nothing was staged.
    """
    claim = key.claim({"job": str(staged.id)})
    parameters = request_keys.claim_columns(staged.tenant, [claim]) | as_columns([staged])
    with request_keys.in_flight():
        async with in_time(), sessions.committing() as connection:
            return bool(await connection.scalar(_STAGE, parameters))
