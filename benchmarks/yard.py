"""Goodsyard as it is shipped, on a run's ground: its own commands, its own settings, its own rows.

The only difference to a shop's is ``benchmarks.jobs``: two kinds of jobs more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import psycopg

from benchmarks import marks
from benchmarks.processes import Processes, address, port_of
from benchmarks.servers import Ground, Servers
from commerce.accounts.scopes import ADMIN
from goodsyard.settings import PREFIX
from ops.admin import create_key
from ops.embedded.ports import LOOPBACK, free_port
from ops.migrate import migrate

TENANT = 1
USERS = 1_000
SKUS = 1_000
ON_HAND = 1_000_000
"""Pieces of each SKU: more than any run sells."""

_WORKER_GRACE = 35.0

_SHOP = "shop"
_SHOPKEEPER = "benchmarks"

# By its key: where millions are in the history, it looks at this run's alone.
_DONE = """
SELECT count(*) FROM goodsyard.job_done
 WHERE tenant = %(tenant)s AND id >= %(since)s AND kind = %(kind)s AND state = 'succeeded'
"""
_USERS = """
INSERT INTO commerce.users (tenant, email, username)
SELECT %(tenant)s, 'user' || n || '@example.com', 'user' || n
  FROM generate_series(1, %(users)s) AS n
"""
_STOCK = """
INSERT INTO commerce.stock (tenant, sku, on_hand)
SELECT %(tenant)s, 'sku-' || n, %(on_hand)s FROM generate_series(1, %(skus)s) AS n
"""


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


class Yard(Processes):
    """One run's Goodsyard."""

    def __init__(self, ground: Ground, api_key: str) -> None:
        """Start nothing yet."""
        super().__init__(ground)
        self.api_key = api_key
        self.gateway = "http://127.0.0.1:9"  # nobody's, until one is started
        self.smtp = f"smtp://{LOOPBACK}:{free_port()}"
        [self._began] = self.row("SELECT uuidv7()")

    def start_gateway(self, *options: str) -> str:
        """Start the gateway that takes 20 ms a call; those started later charge there."""
        self.gateway = super().start_gateway(*options)
        return self.gateway

    def start_mail_sink(self) -> None:
        """Start the sandbox, of which the mail sink is used."""
        port, unused = port_of(self.smtp), free_port()
        self._start(
            "sandbox",
            *("-m", "ops", "sandbox", "--port", str(unused), "--smtp-port", str(port)),
            *("--folder", str(self.ground.folder / "sandbox")),
        )
        self.await_port("sandbox", port)

    def start_relay(self) -> int:
        """Start the relay; returns its pid."""
        return self._start("relay", "-m", "benchmarks.jobs")

    def start_workers(self) -> int:
        """Start one worker node of two processes, as ``goodsyard worker`` does; returns its pid."""
        return self._start(
            "worker",
            *("-m", "celery", "--app", "benchmarks.jobs", "worker"),
            *("--without-gossip", "--without-mingle", "--concurrency", "2"),
            grace=_WORKER_GRACE,
        )

    def start_api(self, *command: str) -> str:
        """Start one API process, the shipped one if no other is given; returns its address."""
        port = free_port()
        arguments = command or ("-m", "ops", "api")
        self._start("api", *arguments, "--host", LOOPBACK, "--port", str(port))
        self.await_port("api", port)
        return address(port)

    def await_marks(self, jobs: int) -> None:
        """Wait until so many jobs have left their marks."""
        self.wait("jobs have run", lambda: marks.count(self.ground.marks), jobs)

    def await_done(self, kind: str, jobs: int) -> None:
        """Wait until so many jobs of ``kind``, made since the run began, are in the history."""
        done = {"tenant": TENANT, "since": self._began, "kind": kind}
        self.wait(f"jobs {kind} are over", lambda: self.number(_DONE, **done), jobs)

    def number(self, query: str, **values: object) -> int:
        """Return the one number that a query is about."""
        [number] = self.row(query, **values)
        return int(number)

    def row(self, query: str, **values: object) -> tuple[Any, ...]:  # what the columns are
        """Return the one row that a query is about."""
        with psycopg.connect(self.ground.postgres, autocommit=True) as connection:
            row = connection.execute(query.encode(), values).fetchone()
        assert row is not None  # noqa: S101 - for the type checker: aggregates have a row
        return row

    def users(self) -> list[UUID]:
        """Return the shop's users."""
        with psycopg.connect(self.ground.postgres) as connection:
            return [user for (user,) in connection.execute("SELECT id FROM commerce.users")]

    def _start(self, name: str, *arguments: str, grace: float = 10.0) -> int:
        settings = {
            "DATABASE_URL": self.ground.sqlalchemy,
            "REDIS_URL": self.ground.redis,
            "SECRET_KEY": "benchmarks alone sign with this key",
            "GATEWAY_URL": self.gateway,
            "GATEWAY_KEY": "sk_test_benchmarks",
            "GATEWAY_WEBHOOK_SECRET": "whsec_benchmarks",
            "SMTP_URL": self.smtp,
            "MAIL_FROM": "shop@goodsyard.example",
        }
        environment = {PREFIX + setting: value for setting, value in settings.items()}
        return self.start(name, *arguments, environment=environment, grace=grace)
