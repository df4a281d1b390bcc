"""DBOS on Postgres: two executors, each with up to 100 workflows of one queue at a time.

They look at the queue every 50 ms, where the default is a second: its idle latency is that
interval. There is no bulk call: workflows are enqueued one by one.
"""

from __future__ import annotations

import sys

from dbos import DBOS

from benchmarks.peers.harness import Peer, main

_TASKS = "benchmarks.peers.dbos.tasks"


class Dbos(Peer):
    """Two executors."""

    def prepare(self) -> None:
        """Make the tables, and be an executor that listens to no queue."""
        self.tasks.launch("producer", [])

    def workers(self) -> list[list[str]]:
        """Start them."""
        return [[sys.executable, "-m", _TASKS, name] for name in ("one", "two")]

    def one(self, kind: str, number: int) -> None:
        """Insert one workflow."""
        DBOS.enqueue_workflow(self.tasks.QUEUE, getattr(self.tasks, kind), number)


if __name__ == "__main__":
    main(Dbos, _TASKS)
