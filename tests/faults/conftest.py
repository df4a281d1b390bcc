"""One running system for all tests here, and for each test a shop of its own on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ops.embedded import ValkeyServer
from tests.conftest import Servers, fresh_database
from tests.harness.cluster import Cluster
from tests.harness.programs import Running
from tests.harness.shop import Shop


@dataclass
class System:
    """A cluster with one relay and one worker node of two processes, always there and working."""

    cluster: Cluster
    valkey: ValkeyServer
    relay: Running
    worker: Running


@pytest.fixture(scope="package")
def standing(
    servers: Servers, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """The system, on a database and a Redis of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="goodsyard-tests-")))
        folder.chmod(0o711)  # where we are root, the server is not, and must pass through
        valkey = stack.enter_context(ValkeyServer(folder / "valkey"))
        database_url = stack.enter_context(fresh_database(servers))
        logs = tmp_path_factory.mktemp("cluster")
        cluster = stack.enter_context(Cluster(logs, database_url, valkey.url))
        yield System(cluster, valkey, cluster.relay(), cluster.worker(processes=2))


@pytest.fixture
def system(standing: System) -> System:
    """The system, ready for work; what the test before it has ended is started again."""
    for running in (standing.relay, standing.worker):
        if running.status is not None:
            running.start()
    standing.cluster.until_ready()
    return standing


@pytest.fixture
def shop(system: System) -> Iterator[Shop]:
    """A shop of this test's own."""
    cluster = system.cluster
    with Shop(cluster.database_url, cluster.sandbox, cluster.folder) as opened:
        yield opened
