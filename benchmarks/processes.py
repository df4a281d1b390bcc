"""The processes of one run: what is started here is gone when the run is, however that ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from benchmarks import marks
from benchmarks.servers import Ground
from goodsyard.settings import PREFIX
from ops.children import Program, last_lines, spawn, stop
from ops.embedded.ports import LOOPBACK, free_port

ROOT = Path(__file__).parents[1]

SECONDS_WITHOUT_NEWS = 60.0
"""A run that shows no progress for so long is given up."""

SECONDS_TO_RUN = 150.0
"""The most a program may take that ends by itself; the peers give up before."""

_LOOK_AGAIN = 0.2  # seconds; nothing is timed by it
_GRACE = 10.0


class BenchmarkError(Exception):
    """A run that can't be counted; the message says why."""


class Processes:
    """What runs on one run's ground; ends with ``with``, the last one first."""

    def __init__(self, ground: Ground) -> None:
        """Start nothing yet."""
        self.ground = ground
        self._running: dict[str, tuple[subprocess.Popen[bytes], Program]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as ends:
            for name in [*self._running]:
                ends.callback(self.end, name)

    def start(
        self,
        name: str,
        *arguments: str,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        grace: float = _GRACE,
    ) -> int:
        """Start a Python program and return its pid.

        Args:
            name: what the run calls it, and its log.
            arguments: the interpreter's.
            python: the interpreter.
            environment: beside what every program here gets, where no setting of a person's is.
            folder: where it works; the run's own, where no ``.env`` is read, if not given.
            grace: seconds it has to end, once it is told to.
        """
        program = Program(
            name=name,
            command=(python, *arguments),
            environment={**_surroundings(self.ground), **(environment or {})},
            folder=folder or self.ground.folder,
            grace=grace,
        )
        process = spawn(program, self.log(name))
        self._running[name] = process, program
        return process.pid

    def start_gateway(self, *options: str) -> str:
        """Start the gateway that takes 20 ms a call, if no option says else; return its address."""
        port = free_port()
        self.start("gateway", "-m", "benchmarks.gateway", "--port", str(port), *options)
        self.await_port("gateway", port)
        return address(port)

    def end(self, name: str) -> None:
        """End what was started under this name, and wait until it is gone."""
        process, program = self._running.pop(name)
        stop(process, program)

    def freeze(self, name: str) -> None:
        """Stop a program and its children where they are (SIGSTOP): nothing of it notices."""
        os.killpg(self.pids[name], signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on (SIGCONT)."""
        os.killpg(self.pids[name], signal.SIGCONT)

    def kill(self, name: str) -> None:
        """End a program and its children at once (SIGKILL), and forget it."""
        process, _ = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(
        self,
        name: str,
        *arguments: str,
        python: str = sys.executable,
        folder: Path | None = None,
    ) -> None:
        """Run a program to its end; see ``start``.

        Raises:
            BenchmarkError: it failed, in its own words, or did not end in ``SECONDS_TO_RUN``.
        """
        self.start(name, *arguments, python=python, folder=folder)
        process, _ = self._running[name]
        try:
            status = process.wait(SECONDS_TO_RUN)
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"{name} did not end within {SECONDS_TO_RUN:.0f} s") from error
        del self._running[name]
        if status != 0:
            raise BenchmarkError(last_lines(self.log(name), 1))

    @property
    def pids(self) -> dict[str, int]:
        """What runs, by name."""
        return {name: process.pid for name, (process, _) in self._running.items()}

    def log(self, name: str) -> Path:
        """Return where a program's output goes."""
        return self.ground.folder / f"{name}.log"

    def wait(self, what: str, finished: Callable[[], int], wanted: int) -> None:
        """Wait until ``finished()`` is ``wanted``.

        Raises:
            BenchmarkError: a process ended, or the number didn't change for a minute.
        """
        last, since = -1, time.monotonic()
        while (now := finished()) < wanted:
            self._see_that_all_live()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > SECONDS_WITHOUT_NEWS:
                raise BenchmarkError(
                    f"{now} of {wanted} {what}, and no more for {SECONDS_WITHOUT_NEWS:.0f} s.\n"
                    + "\n".join(last_lines(self.log(name)) for name in self._running)
                )
            time.sleep(_LOOK_AGAIN)

    def await_port(self, name: str, port: int) -> None:
        """Wait until a program listens on its port."""
        self.wait(f"of {name} answer", lambda: int(_answers(port)), 1)

    def _see_that_all_live(self) -> None:
        for name, (process, _) in self._running.items():
            if process.poll() is not None:
                raise BenchmarkError(
                    f"{name} ended with status {process.returncode}:\n{last_lines(self.log(name))}"
                )


def children(pid: int) -> list[int]:
    """Return the pids of a process's own children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def address(port: int) -> str:
    """Return the HTTP address of a port on the loopback."""
    return f"http://{LOOPBACK}:{port}"


def port_of(url: str) -> int:
    """Return the port that an address of ours names."""
    port = urlsplit(url).port
    assert port is not None  # noqa: S101 - for the type checker: ours all name one
    return port


def _surroundings(ground: Ground) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",  # so that a log ends with a process's last words
        marks.FOLDER: str(ground.marks),
    }


def _answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
