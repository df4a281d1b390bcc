"""Procrastinate on Postgres: two workers, woken by NOTIFY, that keep finished jobs: its defaults.

Each runs 10 jobs at a time over a pool of 10 connections; 100 where jobs wait for 50 ms, and 50 in
the chain. Bulk is ``batch_defer`` of 1,000 jobs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.peers.harness import AsyncPeer, main

_TASKS = "benchmarks.peers.procrastinate.tasks"
_CONCURRENCY = {"io50": "100", "chain": "50"}
_BULK = 1_000


class Procrastinate(AsyncPeer):
    """Two workers."""

    def workers(self) -> list[list[str]]:
        """Start them with the concurrency for the section."""
        command = [sys.executable, "-m", "procrastinate", "--app", f"{_TASKS}.app", "worker"]
        return [[*command, "--concurrency", _CONCURRENCY.get(self.run.section, "10")]] * 2

    async def connect(self) -> None:
        """Open the pool and apply the schema."""
        await self.tasks.app.open_async()
        await self.tasks.app.schema_manager.apply_schema_async()

    async def send(self, kind: str, number: int) -> None:
        """Insert one job."""
        await getattr(self.tasks, kind).defer_async(number=number)

    async def send_many(self, kind: str, numbers: Sequence[int]) -> None:
        """Insert a thousand jobs a statement."""
        task = getattr(self.tasks, kind)
        for begin in range(0, len(numbers), _BULK):
            chunk = numbers[begin : begin + _BULK]
            await task.batch_defer_async(*({"number": number} for number in chunk))


if __name__ == "__main__":
    main(Procrastinate, _TASKS)
