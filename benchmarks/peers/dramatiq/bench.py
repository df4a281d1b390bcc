"""Dramatiq on Redis, with its default middleware: two processes, its default.

8 threads each, its default, for no-op and latency; 32 for 50 ms jobs and 16 for the chain. It
takes 200 messages at a time from the queue (``dramatiq_queue_prefetch``), which for no-op is
faster than its default of two a thread. There is no bulk call: jobs are sent one by one.
"""

from __future__ import annotations

import sys

from benchmarks.peers.harness import Peer, main

_TASKS = "benchmarks.peers.dramatiq.tasks"
_THREADS = {"io50": "32", "chain": "16"}


class Dramatiq(Peer):
    """One command that keeps two worker processes."""

    def workers(self) -> list[list[str]]:
        """Start them with the threads for the section."""
        threads = _THREADS.get(self.run.section, "8")
        command = [sys.executable, "-m", "dramatiq", "--processes", "2", "--threads", threads]
        return [["env", "dramatiq_queue_prefetch=200", *command, _TASKS]]

    def one(self, kind: str, number: int) -> None:
        """Send a message, or a pipeline of three."""
        self.tasks.send(kind, number)


if __name__ == "__main__":
    main(Dramatiq, _TASKS)
