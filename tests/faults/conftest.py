"""One running system for all tests here, and for each test a shop of its own on it.

``system`` is connected to its servers directly; ``wired`` through proxies, for what a network does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from celery import Celery
from redis import Redis

from goodsyard.settings import PREFIX
from ops.embedded import PostgresServer, ValkeyServer
from ops.migrate import migrate
from ops.roles import Role
from tests.harness.clients import caller
from tests.harness.cluster import Cluster
from tests.harness.logins import login, make_logins
from tests.harness.programs import Running
from tests.harness.proxy import Proxy
from tests.harness.shop import Shop


@dataclass
class System:
    """A cluster with one relay and one worker node of two processes, always there and working.

    Its Postgres and its Valkey are its own: a test may kill them, and must start them again.
    """

    cluster: Cluster
    postgres: PostgresServer
    valkey: ValkeyServer
    relay: Running
    worker: Running

    def until_ready(self) -> None:
        """Start again what a test before has ended, and wait until all is ready for work."""
        for running in (self.relay, self.worker):
            if running.status is not None:
                running.start()
        self.cluster.until_ready()

    @contextmanager
    def shop(self) -> Iterator[Shop]:
        """Open a shop on this system, which sees its servers directly."""
        cluster = self.cluster
        with Shop(self.postgres.url, cluster.sandbox, cluster.folder) as opened:
            yield opened


@dataclass
class Wired(System):
    """The same, with a proxy before each server: all that its processes say goes through them."""

    to_postgres: Proxy
    to_valkey: Proxy


@contextmanager
def _servers() -> Iterator[tuple[PostgresServer, ValkeyServer]]:
    with TemporaryDirectory(prefix="goodsyard-tests-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # where we are root, the servers are not, and must pass through
        with (
            PostgresServer(folder / "postgres") as postgres,
            ValkeyServer(folder / "valkey") as valkey,
        ):
            migrate(postgres.url)
            make_logins(postgres.url)
            yield postgres, valkey


@pytest.fixture(scope="package")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The system that all tests share, each process with its own database role."""
    with (
        _servers() as (postgres, valkey),
        Cluster(tmp_path_factory.mktemp("cluster"), postgres.url, valkey.url) as cluster,
    ):
        relay = cluster.relay(_as(Role.RELAY, postgres))
        worker = cluster.worker(processes=2, settings=_as(Role.WORKER, postgres))
        yield System(cluster, postgres, valkey, relay, worker)


def _as(role: Role, postgres: PostgresServer) -> dict[str, str]:
    return {f"{PREFIX}DATABASE_URL": login(postgres.url, role)}


@pytest.fixture(scope="package")
def standing_wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    """The system behind proxies that all tests share."""
    with (
        _servers() as (postgres, valkey),
        Proxy(postgres.port) as to_postgres,
        Proxy(valkey.port) as to_valkey,
        Cluster(
            tmp_path_factory.mktemp("wired"),
            to_postgres.url(postgres.url),
            to_valkey.url(valkey.url),
        ) as cluster,
    ):
        relay, worker = cluster.relay(), cluster.worker(processes=2)
        yield Wired(cluster, postgres, valkey, relay, worker, to_postgres, to_valkey)


@pytest.fixture(scope="module")
def urls(standing: System) -> Iterator[list[str]]:
    """Two APIs on it, for the tests of one module."""
    standing.until_ready()
    settings = _as(Role.API, standing.postgres)
    with standing.cluster.api(settings) as first, standing.cluster.api(settings) as second:
        standing.cluster.until_ready()
        yield [first.url, second.url]


@pytest.fixture
def system(standing: System) -> System:
    """The system, ready for work."""
    standing.until_ready()
    return standing


@pytest.fixture
def shop(system: System) -> Iterator[Shop]:
    """A shop of this test's own."""
    with system.shop() as opened:
        yield opened


@pytest.fixture
def good_behaviour(system: System) -> Iterator[None]:
    """What a test has told the sandbox to do wrong ends with it."""
    yield
    system.cluster.sandbox.behave()


@pytest.fixture
def http(shop: Shop) -> Iterator[httpx.Client]:
    """A caller of the shop's APIs."""
    with caller(shop) as client:
        yield client


@pytest.fixture
def redis(system: System) -> Iterator[Redis]:
    """The broker's Redis."""
    with Redis.from_url(system.valkey.url) as client:
        yield client


@pytest.fixture
def stranger(system: System) -> Iterator[Celery]:
    """Somebody else's Celery app on our broker."""
    with Celery(broker=system.valkey.url, set_as_current=False) as app:
        yield app


@pytest.fixture
def wired(standing_wired: Wired) -> Iterator[Wired]:
    """The system behind proxies, ready for work; what a test leaves of bad weather ends with it."""
    standing_wired.until_ready()
    with standing_wired.to_postgres.trouble(), standing_wired.to_valkey.trouble():
        yield standing_wired


@pytest.fixture
def wired_shop(wired: Wired) -> Iterator[Shop]:
    """A shop of this test's own on the system behind proxies."""
    with wired.shop() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _row_in_the_report(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    """Note in the report which row of the matrix a test stands for."""
    for mark in request.node.iter_markers("row"):
        record_property("row", mark.kwargs["number"])


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """Note in the report what something took, in seconds: ``measured("all sent again", 0.4)``."""
    return lambda what, seconds: record_property("recovery", f"{what}: {seconds:.1f} s")
