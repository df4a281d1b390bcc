"""Connections to Postgres that never hold a lock longer than the limits below."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cache
from typing import Any, cast

import orjson
import psycopg
from sqlalchemy import TextClause, event
from sqlalchemy.dialects.postgresql.psycopg import (
    AsyncAdapt_psycopg_connection,
    PGDialectAsync_psycopg,
)
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from typing_extensions import override

from goodsyard.arrays import ArrayDumper

TRANSACTION_SECONDS = 16.0
"""The most a transaction takes on our side: longer than the server's own limit, which ends all but
those whose connection is broken and doesn't say so (a pooler or a proxy in between that hangs)."""

# A client that is stopped (not dead) inside a transaction is invisible to TCP; these end its
# session, and with it its row locks. A chunk takes some 20 ms: seconds are already an accident.
_SESSION_LIMITS = {
    "statement_timeout": "8s",
    "idle_in_transaction_session_timeout": "5s",
    "transaction_timeout": "9s",
    "lock_timeout": "5s",
    "timezone": "UTC",
}

# Parsing and planning is half of what Postgres has to do for a lone job. But a plan that was kept
# from when the queue was empty reads the whole table once it is full: 150 ms for a chunk's dispatch
# or settlement instead of 3, at a backlog of 180,000, until the next ANALYZE. Hence the second.
_PLANNED_ONCE = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}


def open_engine(
    url: str,
    *,
    pool_size: int,
    application_name: str,
    keep_plans: bool = False,
    durable: bool = True,
) -> AsyncEngine:
    """Return an engine for the database at ``url``; it connects at its first use.

    Args:
        url: ``postgresql+psycopg://…``.
        pool_size: connections kept, and the most there will be: a caller beyond them waits.
        application_name: what ``pg_stat_activity`` shows.
        keep_plans: whether a statement is prepared and planned once, for any values. For processes
            of which each statement reaches its rows by an index, however many there are.
        durable: whether a commit waits for the disk. Only dispatch may do without: if the last
            moments of it are lost in a crash, the same jobs are dispatched again.
    """
    options = dict(_SESSION_LIMITS)
    if keep_plans:
        options |= _PLANNED_ONCE
    if not durable:
        options |= {"synchronous_commit": "off"}
    limits = " ".join(f"-c {name}={value}" for name, value in options.items())
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        # A LIFO pool lets idle connections age out of use and keeps the others' caches hot.
        pool_use_lifo=True,
        # Parameters are customers' data, and an error's text gets into logs and rows.
        hide_parameters=True,
        use_native_hstore=False,  # which each new connection would ask Postgres about
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={
            "async_creator_fn": _Connection.connect,
            "options": limits,
            "application_name": application_name,
            "connect_timeout": 5,
            "prepare_threshold": 5 if keep_plans else None,
            # A peer that vanished without a word is given up after about 10 s.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        },
    )
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


class _Connection(psycopg.AsyncConnection[Any]):  # of rows as SQLAlchemy wants them
    """psycopg's, which can send statements ahead of the answers to earlier ones, and a commit."""

    _ahead: AsyncExitStack | None = None

    async def send_ahead(self) -> None:
        """Wait for no answer from here on, until ``wait_for_answers`` or the transaction's end."""
        if self._ahead is None:
            ahead = AsyncExitStack()
            await ahead.enter_async_context(self.pipeline())
            self._ahead = ahead

    async def wait_for_answers(self) -> None:
        """Wait for the answers to all that was sent, if it was sent ahead.

        Raises:
            psycopg.Error: a statement failed.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            await ahead.aclose()

    @override
    async def commit(self) -> None:
        await super().commit()
        await self.wait_for_answers()

    @override
    async def rollback(self) -> None:
        with suppress(psycopg.Error):  # what led to this says more
            await self.wait_for_answers()
        await super().rollback()


def _prepare(connection: AsyncAdapt_psycopg_connection, _: ConnectionPoolEntry) -> None:
    connection.driver_connection.adapters.register_dumper(list, ArrayDumper)


def _refuse_closed(
    connection: AsyncAdapt_psycopg_connection, _: ConnectionPoolEntry, __: PoolProxiedConnection
) -> None:
    """See that the server hasn't closed the connection while nobody used it.

    Spares a whole chunk its first failure after Postgres restarted or an administrator ended the
    session, as the pool's own pre-ping would, which costs each transaction a round trip. Whatever
    an idle connection has to read is the server's farewell.
    """
    socket = select.poll()
    socket.register(connection.driver_connection.fileno(), select.POLLIN)
    if socket.poll(0):
        raise InvalidatePoolError


class Sessions(async_sessionmaker[AsyncSession]):
    """Makes sessions: ``async with sessions.begin() as tx`` is a transaction, and never lasts."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Make sessions on ``engine``."""
        super().__init__(engine, expire_on_commit=False)
        self._committing = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:  # type: ignore[override]  # used by `async with` alone
        """Begin a transaction, which the end of the block commits, and an exception rolls back.

        Raises:
            sqlalchemy.exc.OperationalError: there was no answer for ``TRANSACTION_SECONDS``. The
                connection was given up; what was sent may or may not have been committed.
        """
        async with in_time(), super().begin() as tx:
            yield tx

    @asynccontextmanager
    async def committing(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection to keep, on which every statement commits itself.

        A lone statement costs one round trip there instead of three, and no session: half the time.
        Use it within ``in_time``.
        """
        async with self._committing.connect() as connection:
            yield connection


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Give what is inside ``TRANSACTION_SECONDS``.

    Raises:
        sqlalchemy.exc.OperationalError: it took longer.
    """
    limit = asyncio.timeout(TRANSACTION_SECONDS)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        silence = TimeoutError(f"Postgres was silent for {TRANSACTION_SECONDS:g} s")
        raise OperationalError("a transaction", None, silence) from error


async def send_ahead(tx: AsyncSession) -> None:
    """Send what follows in the transaction, its commit included, without waiting for answers.

    For statements that return nothing. Together with the commit they take one round trip: what the
    transaction has locked is free again as soon as the server is through, however busy we are. An
    error of one of them is raised by the commit, or by ``wait_for_answers``.
    """
    await (await _driver_connection(tx)).send_ahead()


async def wait_for_answers(tx: AsyncSession) -> None:
    """Wait until all that was sent ahead is answered, if anything was.

    Raises:
        sqlalchemy.exc.DBAPIError: a statement failed. The transaction is of no further use.
    """
    connection = await _driver_connection(tx)
    try:
        await connection.wait_for_answers()
    except psycopg.Error as error:
        raise _told_by_sqlalchemy(
            error, "one of several statements sent ahead", connection
        ) from error


async def fetch(
    tx: AsyncSession | AsyncConnection, statement: TextClause, parameters: Mapping[str, object]
) -> list[tuple[Any, ...]]:  # of whatever the statement selects
    """Return the rows of one of the engine's own statements, past SQLAlchemy's execution of it.

    On a machine that was idle just before, that takes longer than Postgres does: a third of the
    time from a lone job's claim to its rows (docs/decisions/0006).

    Raises:
        sqlalchemy.exc.DBAPIError: as from ``execute``.
    """
    driver = await _driver_connection(tx)
    try:
        cursor = await driver.execute(_as_sent(statement), parameters)
        return await cursor.fetchall()
    except psycopg.Error as error:
        raise _told_by_sqlalchemy(error, statement.text, driver) from error


@cache
def _as_sent(statement: TextClause) -> bytes:
    """Return a statement with its parameters marked as psycopg has it."""
    dialect = PGDialectAsync_psycopg()  # type: ignore[no-untyped-call]  # it just isn't annotated
    return str(statement.compile(dialect=dialect)).encode()


def _told_by_sqlalchemy(error: psycopg.Error, statement: str, connection: _Connection) -> Exception:
    return DBAPIError.instance(
        statement,
        None,
        error,
        psycopg.Error,
        hide_parameters=True,
        connection_invalidated=connection.closed,
    )


async def _driver_connection(tx: AsyncSession | AsyncConnection) -> _Connection:
    connection = await tx.connection() if isinstance(tx, AsyncSession) else tx
    return cast("_Connection", (await connection.get_raw_connection()).driver_connection)


def session_factory(engine: AsyncEngine) -> Sessions:
    """Return the factory of sessions."""
    return Sessions(engine)
