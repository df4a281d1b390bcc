"""Goodsyard as it is shipped, on a run's ground: its own commands, its own settings, its own rows.

The only difference to a shop's is ``benchmarks.jobs``: two kinds of jobs more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID

import psycopg

from benchmarks import marks
from benchmarks.servers import Ground, Servers
from commerce.accounts.scopes import ADMIN
from goodsyard.settings import PREFIX
from ops.admin import create_key
from ops.children import Program, last_lines, spawn, stop
from ops.embedded.ports import LOOPBACK, free_port
from ops.migrate import migrate

ROOT = Path(__file__).parents[1]

TENANT = 1
USERS = 1_000
SKUS = 1_000
ON_HAND = 1_000_000
"""Pieces of each SKU: more than any run sells."""

SECONDS_WITHOUT_NEWS = 60.0
"""A run that shows no progress for so long is given up."""

_LOOK_AGAIN = 0.05
_WORKER_GRACE = 35.0
_GRACE = 10.0

_SHOP = "shop"
_SHOPKEEPER = "benchmarks"

_USERS = """
INSERT INTO commerce.users (tenant, email, username)
SELECT %(tenant)s, 'user' || n || '@example.com', 'user' || n FROM generate_series(1, %(users)s) AS n
"""
_STOCK = """
INSERT INTO commerce.stock (tenant, sku, on_hand)
SELECT %(tenant)s, 'sku-' || n, %(on_hand)s FROM generate_series(1, %(skus)s) AS n
"""


class BenchmarkError(Exception):
    """A run that can't be counted; the message says why."""


@dataclass(frozen=True, slots=True)
class Shop:
    """A database with all of our tables, ``USERS`` users, ``SKUS`` goods and an unlimited key.

    Attributes:
        servers: where it is.
        api_key: an administrator's, without a rate limit.
    """

    servers: Servers
    api_key: str

    @classmethod
    def open(cls, servers: Servers) -> Self:
        """Make the shop that every run of ours gets a copy of."""
        servers.create(_SHOP)
        ground = servers.ground_on(_SHOP)
        migrate(ground.sqlalchemy)
        key = asyncio.run(
            create_key(ground.sqlalchemy, _SHOPKEEPER, "run", [ADMIN], unlimited=True)
        )
        with psycopg.connect(ground.postgres, autocommit=True) as connection:
            connection.execute(_USERS, {"tenant": TENANT, "users": USERS})
            connection.execute(_STOCK, {"tenant": TENANT, "skus": SKUS, "on_hand": ON_HAND})
            connection.execute("VACUUM ANALYZE")
        return cls(servers, key)

    @contextmanager
    def yard(self) -> Iterator[Yard]:
        """Give one run a copy of the shop, in which nothing is up yet."""
        with self.servers.ground(_SHOP) as ground, Yard(ground, self.api_key) as yard:
            yield yard

    @contextmanager
    def yard_on(self, database: str) -> Iterator[Yard]:
        """Give one run a copy that was made before, and stays."""
        with Yard(self.servers.ground_on(database), self.api_key) as yard:
            yield yard

    def copy(self, database: str) -> str:
        """Make a copy of the shop that stays; returns its libpq URL."""
        self.servers.create(database, _SHOP)
        return self.servers.url(database)


@dataclass(slots=True)
class Yard:
    """One run's Goodsyard: starts what it is told to, and ends with ``with``."""

    ground: Ground
    api_key: str
    gateway: str = field(default_factory=lambda: _address(free_port()))
    smtp: str = field(default_factory=lambda: f"smtp://{LOOPBACK}:{free_port()}")
    _running: dict[str, tuple[subprocess.Popen[bytes], Program]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as ends:
            for name in [*self._running]:
                ends.callback(self.end, name)

    def start_relay(self) -> int:
        """Start the relay; returns its pid."""
        return self._start("relay", "benchmarks.jobs")

    def start_workers(self) -> int:
        """Start one worker node of two processes, as ``goodsyard worker`` does; returns its pid."""
        return self._start(
            "worker",
            *("celery", "--app", "benchmarks.jobs", "worker"),
            *("--without-gossip", "--without-mingle", "--concurrency", "2"),
            grace=_WORKER_GRACE,
        )

    def start_api(self, module: str = "ops") -> str:
        """Start one API process and return its address once it answers."""
        port = free_port()
        self._start("api", module, "api", "--host", LOOPBACK, "--port", str(port))
        self._await_port("api", port)
        return _address(port)

    def start_gateway(self) -> None:
        """Start the gateway that takes 20 ms a call."""
        port = _port(self.gateway)
        self._start("gateway", "benchmarks.gateway", "--port", str(port))
        self._await_port("gateway", port)

    def start_mail_sink(self) -> None:
        """Start the sandbox, of which the mail sink is used."""
        port, unused = _port(self.smtp), free_port()
        self._start(
            "sandbox",
            *("ops", "sandbox", "--port", str(unused), "--smtp-port", str(port)),
            *("--folder", str(self.ground.folder / "sandbox")),
        )
        self._await_port("sandbox", port)

    def end(self, name: str) -> None:
        """End what was started under this name, and wait until it is gone."""
        process, program = self._running.pop(name)
        stop(process, program)

    def wait(self, what: str, finished: Callable[[], int], wanted: int) -> None:
        """Wait until ``finished()`` is ``wanted``.

        Raises:
            BenchmarkError: a process ended, or the number didn't change for a minute.
        """
        last, since = -1, time.monotonic()
        while (now := finished()) < wanted:
            self._see_that_all_live()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > SECONDS_WITHOUT_NEWS:
                raise BenchmarkError(
                    f"{now} of {wanted} {what}, and no more for {SECONDS_WITHOUT_NEWS:.0f} s. "
                    f"The worker's last words:\n{last_lines(self._log('worker'))}"
                )
            time.sleep(_LOOK_AGAIN)

    def await_marks(self, jobs: int) -> None:
        """Wait until so many jobs have left their marks."""
        self.wait("jobs have run", lambda: marks.count(self.ground.marks), jobs)

    def await_done(self, kind: str, jobs: int) -> None:
        """Wait until so many jobs of ``kind`` are in the history."""
        self.wait(f"jobs {kind} are over", lambda: self.count_done(kind), jobs)

    def count_done(self, kind: str) -> int:
        """Return how many jobs of ``kind`` have succeeded."""
        return self.number(
            "SELECT count(*) FROM goodsyard.job_done WHERE kind = %s AND state = 'succeeded'", kind
        )

    def number(self, query: str, *values: object) -> int:
        """Return the one number that a query is about."""
        [number] = self.row(query, *values)
        return int(number)

    def row(self, query: str, *values: object) -> tuple[Any, ...]:  # what the columns are
        """Return the one row that a query is about."""
        with psycopg.connect(self.ground.postgres, autocommit=True) as connection:
            row = connection.execute(query.encode(), values).fetchone()
        assert row is not None  # noqa: S101 - for the type checker: aggregates have a row
        return row

    def users(self) -> list[UUID]:
        """Return the shop's users."""
        with psycopg.connect(self.ground.postgres) as connection:
            return [user for (user,) in connection.execute("SELECT id FROM commerce.users")]

    def _start(self, name: str, module: str, *arguments: str, grace: float = _GRACE) -> int:
        program = Program(
            name=name,
            command=(sys.executable, "-m", module, *arguments),
            environment=self._environment(),
            folder=self.ground.folder,  # where no .env is read
            grace=grace,
        )
        process = spawn(program, self._log(name))
        self._running[name] = process, program
        return process.pid

    def _environment(self) -> dict[str, str]:
        settings = {
            "DATABASE_URL": self.ground.sqlalchemy,
            "REDIS_URL": self.ground.redis,
            "SECRET_KEY": "benchmarks alone have this one",
            "GATEWAY_URL": self.gateway,
            "GATEWAY_KEY": "sk_test_benchmarks",
            "GATEWAY_WEBHOOK_SECRET": "whsec_benchmarks",
            "SMTP_URL": self.smtp,
            "MAIL_FROM": "shop@goodsyard.example",
        }
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
            **{PREFIX + name: value for name, value in settings.items()},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            marks.FOLDER: str(self.ground.marks),
        }

    def _log(self, name: str) -> Path:
        return self.ground.folder / f"{name}.log"

    def _await_port(self, name: str, port: int) -> None:
        self.wait(f"of {name} answer", lambda: int(_answers(port)), 1)

    def _see_that_all_live(self) -> None:
        for name, (process, _) in self._running.items():
            if process.poll() is not None:
                raise BenchmarkError(
                    f"{name} ended with status {process.returncode}:\n{last_lines(self._log(name))}"
                )


def _answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def _address(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


def _port(address: str) -> int:
    port = urlsplit(address).port
    assert port is not None  # noqa: S101 - for the type checker: ours all name one
    return port
