"""The chain's three steps for a worker of threads: psycopg and urllib3, kept alive by the process.

``BENCH_POSTGRES`` and ``BENCH_GATEWAY`` say where the servers are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from queue import LifoQueue
from typing import Any
from urllib.parse import urlencode

import psycopg
import urllib3

from benchmarks.chain import rows, statements


def reserve(order: int) -> None:
    """Take the order's two pieces off the stock."""
    rows.begins(order)
    with _transaction() as connection:
        skus = connection.execute(statements.RESERVE_ORDER, [order]).fetchone()
        if skus:
            connection.execute(statements.TAKE_STOCK, skus)


def charge(order: int) -> None:
    """Have the gateway charge the order, and book it."""
    with _connection() as connection:
        due = connection.execute(statements.READ_CHARGE, [order]).fetchone()
    if not due:
        return
    payment, amount, currency = due
    gateway_id = _ask_gateway(payment, amount, currency)
    with _transaction() as connection:
        connection.execute(
            statements.INSERT_PAYMENT, [payment, order, amount, currency, gateway_id]
        )
        connection.execute(statements.INSERT_LEDGER, [payment, amount, payment, -amount])
        connection.execute(statements.PAY_ORDER, [order])


def notify(order: int) -> None:
    """Say that the customer was told."""
    with _transaction() as connection:
        connection.execute(statements.INSERT_NOTIFICATION, [order])
        connection.execute(statements.NOTIFY_ORDER, [order])
    rows.ended(order)


def _ask_gateway(payment: object, amount: int, currency: str) -> str:
    response = _http(os.getpid()).request(
        "POST",
        f"{os.environ['BENCH_GATEWAY']}/v1/payment_intents",
        body=urlencode(statements.charge_form(payment, amount, currency)),
        headers=statements.charge_headers(payment)
        | {"Content-Type": "application/x-www-form-urlencoded"},
    )
    intent = json.loads(response.data)
    if intent["status"] != "succeeded":
        raise RuntimeError(f"the gateway says {intent['status']}")
    return str(intent["id"])


# Both are a process's own, by its pid: what a parent opened, its children must not use.
@cache
def _http(_pid: int) -> urllib3.PoolManager:
    return urllib3.PoolManager(maxsize=64, retries=False)


@cache
def _idle(_pid: int) -> LifoQueue[psycopg.Connection[Any] | None]:
    idle: LifoQueue[psycopg.Connection[Any] | None] = LifoQueue()
    for _ in range(statements.CONNECTIONS):
        idle.put(None)  # opened at first use
    return idle


@contextmanager
def _connection() -> Iterator[psycopg.Connection[Any]]:
    idle = _idle(os.getpid())
    connection = idle.get()
    try:
        if connection is None:
            connection = psycopg.connect(os.environ["BENCH_POSTGRES"], autocommit=True)
        yield connection
    finally:
        idle.put(connection)


@contextmanager
def _transaction() -> Iterator[psycopg.Connection[Any]]:
    with _connection() as connection, connection.transaction():
        yield connection
