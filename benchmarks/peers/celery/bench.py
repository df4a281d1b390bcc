"""Celery 5.7 on Redis: ``celery prefork`` and ``celery best pool``.

``celery prefork`` is one worker of two processes, the pool that Celery comes with. ``celery best
pool`` is two workers of one process each, with the pool that was fastest for the load: ``solo`` for
no-op, enqueue and latency, ``threads`` for 50 ms jobs (50 threads each) and the chain (16 each).
There is no bulk call: jobs are sent one by one.
"""

from __future__ import annotations

import sys

from benchmarks.peers.harness import Peer, main

_TASKS = "benchmarks.peers.celery.tasks"

# Nobody watches these workers: what they would tell each other and a monitor is left out.
_QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]

_THREADS = {"io50": "50", "chain": "16"}


class Celery(Peer):
    """One worker of two processes, or two workers."""

    def workers(self) -> list[list[str]]:
        """Start them with the pool for the section."""
        worker = [sys.executable, "-m", "celery", "-A", _TASKS, "worker", *_QUIET]
        if self.run.system == "celery prefork":
            return [[*worker, "--pool", "prefork", "--concurrency", "2"]]
        threads = _THREADS.get(self.run.section)
        pool = ["threads", "--concurrency", threads] if threads else ["solo"]
        return [[*worker, "--hostname", f"{name}@%h", "--pool", *pool] for name in ("one", "two")]

    def one(self, kind: str, number: int) -> None:
        """Send a message, or a chain of three."""
        self.tasks.send(kind, number)


if __name__ == "__main__":
    main(Celery, _TASKS)
