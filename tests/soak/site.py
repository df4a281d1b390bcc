"""A whole installation that may be broken anywhere: two of each process, three workers, proxies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis

from ops.embedded import PostgresServer, ValkeyServer
from ops.migrate import migrate
from tests.harness.cluster import Api, Cluster
from tests.harness.programs import Running
from tests.harness.proxy import Proxy
from tests.harness.shop import Shop


@dataclass
class Site:
    """What the faults are injected into."""

    cluster: Cluster
    postgres: PostgresServer
    valkey: ValkeyServer
    to_postgres: Proxy
    to_valkey: Proxy
    workers: list[Running]
    relays: list[Running]
    apis: list[Api]
    shop: Shop
    chance: random.Random
    copies: int = 0
    """Messages about jobs under way that were sent again by a fault, a job each."""

    def replace_the_ended(self) -> None:
        """Start again what has ended, as a supervisor does."""
        for running in (*self.workers, *self.relays, *self.apis):
            if running.status is not None:
                running.start()

    def redis(self) -> Redis:
        """Return a client of the broker that no proxy comes between."""
        return Redis.from_url(self.valkey.url)


@contextmanager
def opened(logs: Path, chance: random.Random) -> Iterator[Site]:
    """Have an installation, whose processes reach their servers through proxies only."""
    with TemporaryDirectory(prefix="goodsyard-soak-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # where we are root, the servers are not, and must pass through
        with (
            PostgresServer(folder / "postgres") as postgres,
            ValkeyServer(folder / "valkey") as valkey,
            Proxy(postgres.port) as to_postgres,
            Proxy(valkey.port) as to_valkey,
        ):
            migrate(postgres.url)
            urls = to_postgres.url(postgres.url), to_valkey.url(valkey.url)
            with (
                Cluster(logs, *urls) as cluster,
                Shop(postgres.url, cluster.sandbox, logs) as shop,
            ):
                site = Site(
                    cluster,
                    postgres,
                    valkey,
                    to_postgres,
                    to_valkey,
                    workers=[cluster.worker(processes=2) for _ in range(3)],
                    relays=[cluster.relay() for _ in range(2)],
                    apis=[cluster.api() for _ in range(2)],
                    shop=shop,
                    chance=chance,
                )
                cluster.until_ready()
                yield site
