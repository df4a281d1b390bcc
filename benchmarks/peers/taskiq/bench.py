"""Taskiq on a Redis list, its fastest broker, and uvloop: two processes of 100 tasks, its default.

A list forgets a job as it hands it out: one in flight in a crash is lost (at most once). There is
no bulk call: jobs are sent one by one.
"""

from __future__ import annotations

import sys

from benchmarks.peers.harness import AsyncPeer, main

_TASKS = "benchmarks.peers.taskiq.tasks"


class Taskiq(AsyncPeer):
    """One command that keeps two worker processes."""

    def workers(self) -> list[list[str]]:
        """Start them."""
        command = [sys.executable, "-m", "taskiq", "worker", "--workers", "2"]
        return [[*command, "--log-level", "WARNING", f"{_TASKS}:broker"]]

    async def connect(self) -> None:
        """Open the broker."""
        await self.tasks.broker.startup()

    async def send(self, kind: str, number: int) -> None:
        """Push onto the list."""
        await getattr(self.tasks, kind).kiq(number)


if __name__ == "__main__":
    main(Taskiq, _TASKS)
