"""Takes a job in by one statement that commits itself: its key and its row, or neither.

If nothing is before it, the same statement dispatches it (``goodsyard.express``).
"""

from __future__ import annotations

from sqlalchemy import text

from goodsyard import request_keys
from goodsyard.database import Sessions, fetch, in_time
from goodsyard.doorbell import Doorbell
from goodsyard.express import IF_CLEAR, Express, clearance_of
from goodsyard.submit import Staged, as_columns, staging
from producers.idempotency import RequestKey

_STAGE = text(f"""
    WITH won AS ({request_keys.claiming()}),
    staged AS ({staging("EXISTS (SELECT FROM won)")})
    SELECT EXISTS (SELECT FROM won), CAST(NULL AS float8)
""")  # noqa: S608 - no value gets in here, only SQL of our own

_STAGE_AND_DISPATCH = text(f"""
    WITH won AS ({request_keys.claiming()}),
    staged AS ({staging("EXISTS (SELECT FROM won)", IF_CLEAR)})
    SELECT EXISTS (SELECT FROM won), (SELECT sent_at FROM staged)
""")  # noqa: S608 - the same


async def stage_under_key(
    sessions: Sessions, bell: Doorbell, lane: Express, key: RequestKey, staged: Staged
) -> bool:
    """Stage a job under a request's key, in one round trip; commits, and sends it on its way.

    Args:
        sessions: where to.
        bell: wakes relays up.
        lane: may spare the job a relay.
        key: the request's.
        staged: the job. It has no ``unique_key``: whether that is free isn't known before.

    Returns:
        Whether it was staged. If not, another request has the key.

    Raises:
        KeyInFlightError: an equal request hasn't ended in time. Nothing was staged.
    """
    claim = key.claim({"job": str(staged.id)})
    parameters = request_keys.claim_columns(staged.tenant, [claim]) | as_columns([staged])
    statement = _STAGE
    if lane.takes(staged):
        statement, parameters = _STAGE_AND_DISPATCH, parameters | clearance_of(staged)
    with request_keys.in_flight():
        async with in_time(), sessions.committing() as connection:
            ((won, sent_at),) = await fetch(connection, statement, parameters)
    if won and not lane.send(staged, sent_at):
        bell.ring(due=[staged.contract.kind])
    return bool(won)
