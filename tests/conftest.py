"""Every test gets an empty database and an empty Redis, of one real Postgres, one real Valkey."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import Connection, sql
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

# As a replica, so that neither foreign keys nor the ledger's trigger object. What a failed test
# left open is waited for: `goodsyard.database` ends any transaction within seconds.
_EMPTY = """
    DO $$
    DECLARE
        heap regclass;
    BEGIN
        SET LOCAL session_replication_role = replica;
        FOR heap IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname IN ('goodsyard', 'commerce', 'public')
                       AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                       AND c.relname NOT IN ('alembic_version', 'queue') LOOP
            EXECUTE 'DELETE FROM ' || heap;
        END LOOP;
        UPDATE goodsyard.queue SET paused = false WHERE paused;
        PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence;
    END
    $$
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know the option of ``make test-live``."""
    parser.addoption(
        "--live", action="store_true", help="ask an API process over TCP, not the app in ours"
    )


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


@pytest.fixture(scope="session")
def shared_database(servers: Servers, postgres_url: str) -> Iterator[tuple[str, Connection]]:
    """One database for all tests in turn, and a connection of its owner's."""
    with fresh_database(servers) as url, _connect(url) as connection:
        yield url, connection


@pytest.fixture
def database_url(shared_database: tuple[str, Connection]) -> str:
    """An empty, migrated database: to empty one costs a tenth of making another."""
    url, connection = shared_database
    connection.execute(_EMPTY)
    return url


@pytest.fixture
def own_database_url(servers: Servers, postgres_url: str) -> Iterator[str]:
    """An empty, migrated database that a test may alter or fill as it likes."""
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
    with _connect(url) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _connect(url: str) -> Connection:
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(conninfo, autocommit=True)


def _on(database: str, url: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)
