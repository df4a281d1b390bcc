"""Huey on Redis, which hands a job out and forgets it: one in flight in a crash is lost.

Two consumers of 10 threads each, 50 for 50 ms jobs, that block on the queue (its default) and run
no schedule. There is no bulk call: jobs are sent one by one.
"""

from __future__ import annotations

import sys

from benchmarks.peers.harness import Peer, main

_TASKS = "benchmarks.peers.huey.tasks"


class Huey(Peer):
    """Two consumers."""

    def workers(self) -> list[list[str]]:
        """Start them with the threads for the section."""
        threads = "50" if self.run.section == "io50" else "10"
        consumer = [sys.executable, "-m", "huey.bin.huey_consumer", f"{_TASKS}.huey"]
        options = ["--workers", threads, "--worker-type", "thread", "--no-periodic", "--quiet"]
        return [[*consumer, *options]] * 2

    def one(self, kind: str, number: int) -> None:
        """Push onto the list."""
        getattr(self.tasks, kind)(number)


if __name__ == "__main__":
    main(Huey, _TASKS)
