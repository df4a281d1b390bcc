"""Every test gets a database and a Redis of its own, on one real Postgres and one real Valkey."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from redis import Redis
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from goodsyard.database import Sessions, open_engine, session_factory
from ops.embedded import PostgresServer, ValkeyServer
from ops.migrate import migrate
from tests.harness.containers import why_no_engine
from tests.harness.logins import make_logins

_TEMPLATE = "template_goodsyard"
_names = (f"test_{number}" for number in count(1))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``docker`` where no engine answers: a client alone says nothing."""
    reason = why_no_engine() if item.get_closest_marker("docker") else None
    if reason:
        pytest.skip(reason)


@dataclass(frozen=True)
class Servers:
    """The pair of servers all tests share; what a test breaks, it starts itself."""

    postgres: PostgresServer
    valkey: ValkeyServer


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """One Postgres and one Valkey for the whole run, never the ones a developer's settings name."""
    with tempfile.TemporaryDirectory(prefix="goodsyard-tests-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # where we are root, the servers are not, and must pass through
        with (
            PostgresServer(folder / "postgres") as postgres,
            ValkeyServer(folder / "valkey") as valkey,
        ):
            yield Servers(postgres, valkey)


@pytest.fixture(scope="session")
def postgres_url(servers: Servers) -> str:
    """A migrated database that nobody writes to: what ``database_url`` copies."""
    _administer(servers.postgres.url, "CREATE DATABASE {}", _TEMPLATE)
    url = _on(_TEMPLATE, servers.postgres.url)
    migrate(url)
    make_logins(url)
    return url


@pytest.fixture
def database_url(servers: Servers, postgres_url: str) -> Iterator[str]:
    """An empty, migrated database of this test's own."""
    with fresh_database(servers) as url:
        yield url


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty Redis."""
    with Redis.from_url(servers.valkey.url) as client:
        client.flushall()
    return servers.valkey.url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Connections to this test's database, as every process of Goodsyard opens them."""
    opened = open_engine(database_url, pool_size=10, application_name="tests")
    yield opened
    await opened.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    """Transactions on this test's database."""
    return session_factory(engine)


@contextmanager
def fresh_database(servers: Servers) -> Iterator[str]:
    """Have an empty, migrated database for a while; the fixture ``postgres_url`` came before."""
    name = next(_names)
    _administer(servers.postgres.url, "CREATE DATABASE {} TEMPLATE {}", name, _TEMPLATE)
    yield _on(name, servers.postgres.url)
    _administer(servers.postgres.url, "DROP DATABASE {} WITH (FORCE)", name)


def _administer(url: str, statement: str, *names: str) -> None:
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _on(database: str, url: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)
