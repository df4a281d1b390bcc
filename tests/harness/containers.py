"""Processes in a container's place, and whether there is an engine for real ones.

pytest-celery drives containers. What it asks of one is little, and a process can answer it all.
"""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import closing
from functools import cache
from signal import Signals

import celery
import docker
from docker.errors import DockerException

from tests.harness.programs import Running


@cache
def why_no_engine() -> str | None:
    """Return why no container can be run here; ``None`` where a Docker engine answers."""
    reason = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with closing(docker.from_env(timeout=5)) as client:
                client.ping()
        except (DockerException, OSError) as error:
            reason = f"no Docker engine answers: {error}"
        gc.collect()  # where none answers, the library forgets to close the socket it asked by
    return reason


class ProcessContainer:
    """A process, as pytest-celery sees a container.

    Args:
        running: the process.
        host: the part of a worker node's name behind the @.
        url: the broker's, where it is one.
    """

    def __init__(self, running: Running, *, host: str = "test", url: str = "") -> None:
        self._running = running
        self.id = host
        self.name = running.name
        self.celeryconfig = {"url": url, "host_url": url}

    @property
    def status(self) -> str:
        """``running`` or ``exited``, in Docker's words."""
        return "running" if self._running.status is None else "exited"

    def logs(self) -> str:
        """Return all that it has said."""
        return self._running.log.read_text(errors="replace")

    def ready(self) -> bool:
        """Wait until it takes work; fails if it doesn't."""
        self._running.until_ready()
        return True

    def kill(self, signal: str) -> None:
        """Send a signal, by its name."""
        if signal == "SIGKILL":
            self._running.kill()
        else:
            os.kill(self._running.pid, Signals[signal])

    def reload(self) -> None:
        """There is nothing to ask again: ``status`` is always the present one."""

    def restart(self, timeout: float) -> None:
        """End it as its supervisor would, start it again, and wait until it takes work."""
        self._running.stop()
        self._running.start()
        self._running.until_ready()

    def teardown(self) -> None:
        """Whoever started it ends it, with all the others."""

    def worker_name(self) -> str:
        """Return the part of a worker node's name before the @."""
        return self.name

    def worker_queue(self) -> str:
        """Return a queue that a worker node consumes."""
        return "orders"

    def version(self) -> str:
        """Return Celery's version."""
        return str(celery.__version__)

    def log_level(self) -> str:
        """Return what is logged at least."""
        return "INFO"
