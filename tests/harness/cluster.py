"""Goodsyard's own processes on one database and one Redis, started by the commands people type."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from goodsyard.settings import PREFIX
from ops.children import Program
from ops.embedded.ports import LOOPBACK, free_port
from tests.harness.programs import Running
from tests.harness.sandbox import Sandbox

ROOT = Path(__file__).parents[2]

# A test must not wait as long as an operator may: what is in hand takes a second or two.
_GRACE = 10.0
_AS_THEY_ARE: Mapping[str, str] = MappingProxyType({})


@dataclass
class Api(Running):
    """An API process, and where it answers."""

    url: str = field(default="", kw_only=True)


@dataclass
class Cluster:
    """A sandbox, and as many relays and worker nodes as are asked for.

    Args:
        folder: where the logs are.
        database_url: a migrated database.
        redis_url: broker and doorbell.
    """

    folder: Path
    database_url: str
    redis_url: str
    running: list[Running] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._numbers = count(1)
        http, smtp = free_port(), free_port()
        self.gateway_url = f"http://{LOOPBACK}:{http}"
        self.smtp_url = f"smtp://{LOOPBACK}:{smtp}"
        self.sandbox = Sandbox(self.gateway_url)
        # Nothing of a developer's own settings: neither from the environment nor from a .env file,
        # which is read from the working directory.
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            f"{PREFIX}DATABASE_URL": self.database_url,
            f"{PREFIX}REDIS_URL": self.redis_url,
            f"{PREFIX}SECRET_KEY": "the tests alone sign with this key",
            f"{PREFIX}GATEWAY_URL": self.gateway_url,
            f"{PREFIX}GATEWAY_KEY": "sk_test_of_the_tests",
            f"{PREFIX}GATEWAY_WEBHOOK_SECRET": "whsec_of_the_tests",
            f"{PREFIX}SMTP_URL": self.smtp_url,
            f"{PREFIX}MAIL_FROM": "shop@goodsyard.example",
        }
        folder = str(self.folder / "sandbox")
        ports = ("--port", str(http), "--smtp-port", str(smtp), "--folder", folder)
        self._provider = self._goodsyard("sandbox", "sandbox", *ports, sign='"gateway"')

    @property
    def provider(self) -> Running:
        """The sandbox's process: gateway and mail sink."""
        return self._provider

    def relay(self, settings: Mapping[str, str] = _AS_THEY_ARE) -> Running:
        """Start a relay, with ``settings`` added to its environment."""
        return self._start(
            self._goodsyard(f"relay-{next(self._numbers)}", "relay", settings=settings)
        )

    def worker(
        self,
        *,
        queues: Sequence[str] = (),
        processes: int = 1,
        settings: Mapping[str, str] = _AS_THEY_ARE,
    ) -> Running:
        """Start a worker node.

        Args:
            queues: those it consumes; all, if none is named.
            processes: how many chunks it runs at a time.
            settings: added to its environment; an empty one is left out of it.
        """
        name = f"worker-{next(self._numbers)}"
        arguments = ["--hostname", f"{name}@test", "--concurrency", str(processes)]
        arguments += ["--queues", ",".join(queues)] if queues else []
        sign = f"{name}@test ready."
        return self._start(
            self._goodsyard(name, "worker", *arguments, sign=sign, settings=settings)
        )

    def api(self, settings: Mapping[str, str] = _AS_THEY_ARE) -> Api:
        """Start an API process, with ``settings`` added to its environment."""
        port = free_port()
        name = f"api-{next(self._numbers)}"
        running = self._goodsyard(name, "api", "--port", str(port), settings=settings)
        url = f"http://{LOOPBACK}:{port}"
        api = Api(running.program, running.log, f"Uvicorn running on {url}", url=url)
        self._start(api)
        return api

    def program(
        self, name: str, *arguments: str, settings: Mapping[str, str] = _AS_THEY_ARE
    ) -> Program:
        """Return a Python program in the environment of the cluster's processes."""
        environment = {**self._environment, **settings}
        return Program(
            name=name,
            command=(sys.executable, *arguments),
            environment={name: value for name, value in environment.items() if value},
            folder=self.folder,
            grace=_GRACE,
        )

    def start(self, program: Program) -> Running:
        """Start a program that ends with the cluster."""
        return self._start(Running(program, self.folder / f"{program.name}.log"))

    def until_ready(self) -> None:
        """Wait until all that was started and runs is ready for work."""
        for running in self.running:
            if running.status is None:
                running.until_ready()

    def __enter__(self) -> Self:
        self._start(self._provider)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sandbox.close()
        for running in self.running:
            if running is not self._provider and running.status is None:
                running.thaw()
                running.terminate()  # all of them at once, before the first is waited for
        for running in reversed(self.running):
            running.stop()

    def _goodsyard(
        self,
        name: str,
        *arguments: str,
        sign: str = "",
        settings: Mapping[str, str] = _AS_THEY_ARE,
    ) -> Running:
        program = self.program(name, "-m", "ops", *arguments, settings=settings)
        return Running(program, self.folder / f"{name}.log", sign)

    def _start(self, running: Running) -> Running:
        running.start()
        self.running.append(running)
        return running
