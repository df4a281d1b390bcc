"""Runs a transaction, whole, again while Postgres is away or another one wins the conflict."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

PATIENCE_SECONDS = 20.0
"""How long a chunk is tried again while Postgres is away: a restart costs no attempt."""

CONFLICT_TRIES = 3
"""How often a transaction that lost a conflict is run before it counts as failed."""

# serialization_failure, deadlock_detected, lock_not_available
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
# admin_shutdown, crash_shutdown, cannot_connect_now; and the classes of connection exceptions and
# of insufficient resources. Not the timeouts of an idle session or a transaction: whoever holds one
# open that long is the one to blame.
_OUTAGES = ("57P01", "57P02", "57P03", "08", "53")

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def is_outage(error: BaseException) -> bool:
    """Whether Postgres was away (or sent us away), so that no job is to blame."""
    if not isinstance(error, DBAPIError):
        return False
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state.startswith(_OUTAGES)
    # libpq's own errors carry none: the connection broke or was never made. Nor do psycopg's, but a
    # value that it can't send (a NUL in a text) is a DataError, and would never get better.
    return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))


def _is_conflict(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _CONFLICTS


async def patiently(transaction: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction until it is through, or ``PATIENCE_SECONDS`` are over.

    A commit whose answer was lost resolves itself: the rows it ended no longer match.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres stayed away, or the transaction fails whenever it runs.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_SECONDS
    wait, conflicts = 0.05, 0
    while True:
        try:
            return await transaction()
        except DBAPIError as error:
            lost_conflict = _is_conflict(error)
            conflicts += lost_conflict
            again = is_outage(error) or (lost_conflict and conflicts < CONFLICT_TRIES)
            if not again or loop.time() + wait > until:
                raise
            _log.info("postgres.again", error=str(error.orig), wait_seconds=wait)
        await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter, no secret
        wait = min(wait * 2, 2.0)
