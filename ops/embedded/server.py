"""A server that is up when ``start`` returns, gone when ``stop`` does, and keeps its data between.

``with PostgresServer(folder) as server: …`` is all that tests need. ``goodsyard up`` takes the
pieces (``prepare``, ``program``, ``answers``, ``complete``) and lets its supervisor run them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ops.children import Program, last_lines, spawn, stop
from ops.embedded.ports import free_port
from ops.errors import CommandError
from ops.private_files import kept_secret

# Recovery after a SIGKILL replays at most a few hundred MB of WAL; a slow disk is allowed for.
_SECONDS_TO_START = 60.0
_SECONDS_BETWEEN_TRIES = 0.02


class ServerError(CommandError):
    """An embedded server can't be started; the message says why and what to do instead."""


class Server(ABC):
    """One embedded server on one loopback port.

    Attributes:
        name: what people call it.
        folder: its folder, wholly its own: data, password, log. Made if need be.
        port: chosen once, so that clients find it again after a restart.
        password: random, kept in ``folder`` with mode 0600.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, port: int | None = None) -> None:
        if sys.platform != "linux":
            raise ServerError(
                "The embedded servers need Linux: only its kernel can promise that they end with "
                "the program that started them. Set GOODSYARD_DATABASE_URL and GOODSYARD_REDIS_URL "
                "to servers of your own."
            )
        self.folder = folder.resolve()
        # Others may pass through, as the server itself must; the secrets inside have their own mode
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.port = port or free_port()
        self.password = kept_secret(self.folder / "password")
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where Goodsyard finds the server, password included."""

    @property
    @abstractmethod
    def program(self) -> Program:
        """What to start."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what the program needs on disk, the first time."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether the server takes work now; waits a second at most."""

    @abstractmethod
    def complete(self) -> None:
        """Make what is missing inside the server that has just come up."""

    @property
    def pid(self) -> int:
        """The process that ``start`` started.

        Raises:
            ServerError: it is not running.
        """
        if self._process is None:
            raise ServerError(f"{self.name} is not running: call start().")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ServerError: it ended, or didn't answer within a minute; its last words are quoted.
        """
        self.prepare()
        self._process = spawn(self.program, self.log)
        deadline = time.monotonic() + _SECONDS_TO_START
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServerError(f"{self.name} did not start:\n{last_lines(self.log)}")
            time.sleep(_SECONDS_BETWEEN_TRIES)
        self.complete()

    def stop(self) -> None:
        """End the server and wait until it is gone; its data stays."""
        if self._process is not None:
            stop(self._process, self.program)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def package_folder(package: str, setting: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises:
        ServerError: it is not installed; the message names the setting to use instead.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(
            f"The package {package.replace('_', '-')} is not installed. "
            f"Install goodsyard[embedded], or set {setting} to a server of your own."
        )
    return Path(spec.submodule_search_locations[0])
