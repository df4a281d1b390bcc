"""pytest-celery's fixtures over Goodsyard's nodes: as processes, and as containers where they run.

Overridden are the nodes only; clusters, configuration and ``celery_setup`` are the plugin's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pytest_celery import (
    CeleryTestWorker,
    CeleryWorkerContainer,
    RedisContainer,
    RedisTestBroker,
)
from pytest_docker_tools import build, container, fxtr, network
from pytest_docker_tools.wrappers import Container

from ops.embedded import ValkeyServer
from ops.migrate import migrate
from tests.conftest import Servers, fresh_database
from tests.harness.cluster import ROOT, Cluster
from tests.harness.containers import ProcessContainer
from tests.harness.programs import Running
from tests.harness.sandbox import Sandbox
from tests.harness.shop import Shop

Node = Any  # pytest-celery is untyped


@dataclass(frozen=True)
class Site:
    """A whole system with one broker node and one worker node."""

    broker: Node
    worker: Node
    database_url: str
    sandbox: Sandbox
    logs: object


@pytest.fixture(
    scope="module", params=["processes", pytest.param("containers", marks=pytest.mark.docker)]
)
def site(request: pytest.FixtureRequest) -> Site:
    """The system, in each form there is."""
    chosen: Site = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def shop(site: Site) -> Iterator[Shop]:
    """A shop of this test's own."""
    with Shop(site.database_url, site.sandbox, site.logs) as opened:
        yield opened


@pytest.fixture
def celery_broker(site: Site) -> Node:
    """The broker node; whoever made the site ends it."""
    return site.broker


@pytest.fixture
def celery_worker(site: Site) -> Node:
    """The worker node; whoever made the site ends it."""
    return site.worker


@pytest.fixture
def celery_backend_cluster() -> None:
    """Goodsyard has no Celery result backend: its results are rows."""


# Processes


@pytest.fixture(scope="module")
def processes(
    servers: Servers, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Valkey, sandbox, relay and worker as processes on this machine."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="goodsyard-tests-")))
        folder.chmod(0o711)  # where we are root, the server is not, and must pass through
        valkey = ValkeyServer(folder / "valkey")
        broker = stack.enter_context(
            Running(valkey.program, valkey.log, sign="Ready to accept connections")
        )
        broker.start()
        database_url = stack.enter_context(fresh_database(servers))
        logs = tmp_path_factory.mktemp("nodes")
        cluster = stack.enter_context(Cluster(logs, database_url, valkey.url))
        worker = cluster.worker(processes=2)
        cluster.relay()
        cluster.until_ready()
        yield Site(
            RedisTestBroker(ProcessContainer(broker, url=valkey.url)),
            CeleryTestWorker(ProcessContainer(worker), app=None),
            database_url,
            cluster.sandbox,
            logs,
        )


# Containers, as in docker-compose.yml


class WorkerContainer(CeleryWorkerContainer):  # type: ignore[misc]  # pytest-celery is untyped
    """A worker node of Goodsyard's image, whose command says which node it is."""

    @classmethod
    def worker_name(cls) -> str:
        """Return the part of the node's name before the @."""
        return "worker"

    @classmethod
    def worker_queue(cls) -> str:
        """Return a queue that it consumes."""
        return "orders"


_ENVIRONMENT = {
    "GOODSYARD_DATABASE_URL": (
        "postgresql+psycopg://goodsyard:goodsyard@{postgres_container.ips.primary}/goodsyard"
    ),
    "GOODSYARD_REDIS_URL": "redis://{valkey_container.ips.primary}:6379/0",
    "GOODSYARD_SECRET_KEY": "the tests alone sign with this key",
    "GOODSYARD_GATEWAY_URL": "http://{sandbox_container.ips.primary}:8090",
    "GOODSYARD_GATEWAY_KEY": "sk_test_of_the_tests",
    "GOODSYARD_SMTP_URL": "smtp://{sandbox_container.ips.primary}:8025",
    "GOODSYARD_MAIL_FROM": "shop@goodsyard.example",
}
_NETWORK = "{nodes_network.name}"
_IMAGE = "{goodsyard_image.id}"


@pytest.fixture(scope="module")
def valkey_command() -> list[str]:
    """The plugin's own switches: nothing is kept, nothing evicted."""
    return ["valkey-server", *RedisContainer.command()[1:]]


nodes_network = network(scope="module")
goodsyard_image = build(path=str(ROOT), tag="goodsyard:tests")
postgres_container = container(
    scope="module",
    image="postgres:18",
    environment={"POSTGRES_USER": "goodsyard", "POSTGRES_PASSWORD": "goodsyard"},
    ports={"5432/tcp": None},
    network=_NETWORK,
)
valkey_container = container(
    scope="module",
    image="valkey/valkey:9",
    command=fxtr("valkey_command"),
    ports={"6379/tcp": None},
    network=_NETWORK,
    wrapper_class=RedisContainer,
)
sandbox_container = container(
    scope="module",
    image=_IMAGE,
    command=["sandbox", "--host", "0.0.0.0", "--folder", "/tmp/sandbox"],  # noqa: S104, S108 - its own
    environment={
        "GOODSYARD_GATEWAY_KEY": "sk_test_of_the_tests",
        "GOODSYARD_GATEWAY_WEBHOOK_SECRET": "whsec_of_the_tests",
    },
    ports={"8090/tcp": None},
    network=_NETWORK,
)
relay_container = container(
    scope="module", image=_IMAGE, command=["relay"], environment=_ENVIRONMENT, network=_NETWORK
)
worker_container = container(
    scope="module",
    image=_IMAGE,
    command=["worker", "--hostname", "worker@%h", "--concurrency", "2"],
    environment=_ENVIRONMENT,
    network=_NETWORK,
    timeout=60,
    wrapper_class=WorkerContainer,
)


@pytest.fixture(scope="module")
def migrated(postgres_container: Container) -> str:
    """The containers' database, seen from here, with all its tables."""
    port = postgres_container.ports["5432/tcp"][0]
    url = f"postgresql+psycopg://goodsyard:goodsyard@127.0.0.1:{port}/goodsyard"
    migrate(url)
    return url


@pytest.fixture(scope="module")
def containers(
    migrated: str,
    valkey_container: Container,
    sandbox_container: Container,
    relay_container: Container,
    worker_container: Container,
) -> Iterator[Site]:
    """Postgres, Valkey, sandbox, relay and worker, each in a container of its own."""
    url = f"http://127.0.0.1:{sandbox_container.ports['8090/tcp'][0]}"
    with closing(Sandbox(url)) as sandbox:
        yield Site(
            RedisTestBroker(valkey_container),
            CeleryTestWorker(worker_container, app=None),
            migrated,
            sandbox,
            f"docker logs {worker_container.name}",
        )
