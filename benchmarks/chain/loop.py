"""The chain's three steps for a worker with an event loop: psycopg and aiohttp, kept by the loop.

``BENCH_POSTGRES`` and ``BENCH_GATEWAY`` say where the servers are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeAlias

import aiohttp
import psycopg

from benchmarks.chain import rows, statements

_Connection: TypeAlias = "psycopg.AsyncConnection[Any]"  # rows as they come: tuples


async def reserve(order: int) -> None:
    """Take the order's two pieces off the stock."""
    rows.begins(order)
    async with _transaction() as connection:
        found = await connection.execute(statements.RESERVE_ORDER, [order])
        skus = await found.fetchone()
        if skus:
            await connection.execute(statements.TAKE_STOCK, skus)


async def charge(order: int) -> None:
    """Have the gateway charge the order, and book it."""
    async with _connection() as connection:
        found = await connection.execute(statements.READ_CHARGE, [order])
        due = await found.fetchone()
    if not due:
        return
    payment, amount, currency = due
    gateway_id = await _ask_gateway(payment, amount, currency)
    async with _transaction() as connection:
        await connection.execute(
            statements.INSERT_PAYMENT, [payment, order, amount, currency, gateway_id]
        )
        await connection.execute(statements.INSERT_LEDGER, [payment, amount, payment, -amount])
        await connection.execute(statements.PAY_ORDER, [order])


async def notify(order: int) -> None:
    """Say that the customer was told."""
    async with _transaction() as connection:
        await connection.execute(statements.INSERT_NOTIFICATION, [order])
        await connection.execute(statements.NOTIFY_ORDER, [order])
    rows.ended(order)


async def close() -> None:
    """Close the connections to the gateway, as whoever is not just ended should."""
    await _http(asyncio.get_running_loop()).close()


async def _ask_gateway(payment: object, amount: int, currency: str) -> str:
    async with _http(asyncio.get_running_loop()).post(
        f"{os.environ['BENCH_GATEWAY']}/v1/payment_intents",
        data=statements.charge_form(payment, amount, currency),
        headers=statements.charge_headers(payment),
    ) as response:
        intent = await response.json()
    if intent["status"] != "succeeded":
        raise RuntimeError(f"the gateway says {intent['status']}")
    return str(intent["id"])


# Both belong to one event loop, for as long as its process lives.
@cache
def _http(_loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    )


@cache
def _idle(_loop: asyncio.AbstractEventLoop) -> asyncio.LifoQueue[_Connection | None]:
    idle: asyncio.LifoQueue[_Connection | None] = asyncio.LifoQueue()
    for _ in range(statements.CONNECTIONS):
        idle.put_nowait(None)  # opened at first use
    return idle


@asynccontextmanager
async def _connection() -> AsyncIterator[_Connection]:
    idle = _idle(asyncio.get_running_loop())
    connection = await idle.get()
    try:
        if connection is None:
            connection = await psycopg.AsyncConnection.connect(
                os.environ["BENCH_POSTGRES"], autocommit=True
            )
        yield connection
    finally:
        idle.put_nowait(connection)


@asynccontextmanager
async def _transaction() -> AsyncIterator[_Connection]:
    async with _connection() as connection, connection.transaction():
        yield connection
