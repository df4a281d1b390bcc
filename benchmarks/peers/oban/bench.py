"""Oban for Python on Postgres: two nodes with its defaults, on uvloop as its command runs.

Each node runs 10 jobs of the queue at a time, as in its guide; 100 where jobs wait for 50 ms, 50
in the chain. Bulk is ``enqueue_many`` of 1,000 jobs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from oban import Oban as Client
from oban.schema import install

from benchmarks.peers.harness import AsyncPeer, main

_LIMITS = {"io50": 100, "chain": 50}
_BULK = 1_000


class Oban(AsyncPeer):
    """Two nodes."""

    def workers(self) -> list[list[str]]:
        """Start them with the limit for the section."""
        queues = f"default:{_LIMITS.get(self.run.section, 10)}"
        command = [sys.executable, "-m", "oban", "start", "--dsn", self.run.postgres]
        options = ["--queues", queues, "--log-level", "warning"]
        return [[*command, *options, "--node", node] for node in ("one", "two")]

    async def connect(self) -> None:
        """Install the schema and register a client."""
        pool = await Client.create_pool(self.run.postgres)
        await install(pool)
        self._client = Client(pool=pool)
        await self._client.start()

    async def send(self, kind: str, number: int) -> None:
        """Insert one job."""
        await self.tasks.enqueue(getattr(self.tasks, kind).new(number))

    async def send_many(self, kind: str, numbers: Sequence[int]) -> None:
        """Insert a thousand jobs a statement."""
        new = getattr(self.tasks, kind).new
        for begin in range(0, len(numbers), _BULK):
            chunk = numbers[begin : begin + _BULK]
            await self._client.enqueue_many([new(number) for number in chunk])


if __name__ == "__main__":
    main(Oban, "benchmarks.peers.oban.tasks")
