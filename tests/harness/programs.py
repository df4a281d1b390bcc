"""A process that a test starts: signals reach all of it, and it never outlives the test run."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ops import children
from ops.children import Program, last_lines
from tests.processes import living, tree, wait_until

PATIENCE = 60.0
"""Seconds: many times what anything here takes on idle cores, since others may use them too."""


@dataclass
class Running:
    """A program and its present process.

    Args:
        program: what to start.
        log: where it writes to; kept from one start to the next.
        sign: what the log says once the process is ready for work; nothing, if it says nothing.
    """

    program: Program
    log: Path
    sign: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _log_began: int = field(default=0, init=False, repr=False)

    @property
    def name(self) -> str:
        """What the program is called."""
        return self.program.name

    @property
    def pid(self) -> int:
        """The process that was started last."""
        return self._started.pid

    @property
    def status(self) -> int | None:
        """How it ended, minus the signal's number if one ended it; ``None`` while it runs."""
        return self._started.poll()

    @property
    def offspring(self) -> list[int]:
        """The processes it started itself: of a worker node, those that run the chunks."""
        return tree(self.pid)[1:]

    @property
    def said(self) -> str:
        """What it has written to its log since its last start."""
        return self.log.read_bytes()[self._log_began :].decode(errors="replace")

    def start(self) -> None:
        """Start it, and come back at once."""
        self._log_began = self.log.stat().st_size if self.log.exists() else 0
        self._process = children.spawn(self.program, self.log)

    def until_ready(self) -> None:
        """Wait until it is ready for work.

        Raises:
            AssertionError: it ended, or took longer; its last words are quoted.
        """
        try:
            wait_until(
                lambda: self.status is not None or self.sign in self.said,
                f"{self.name} to say {self.sign!r}",
                PATIENCE,
            )
        except AssertionError as error:
            error.add_note(last_lines(self.log))
            raise
        assert self.status is None, f"{self.name} ended with {self.status}: {last_lines(self.log)}"

    def until_ended(self) -> int:
        """Wait for its end and return its status."""
        wait_until(lambda: self.status is not None, f"{self.name} to end", PATIENCE)
        return self._started.returncode

    def terminate(self) -> None:
        """Ask it to finish what it does and end (SIGTERM)."""
        self._started.send_signal(self.program.stop_signal)

    def kill(self) -> None:
        """Kill it (SIGKILL), and wait until the processes it started have followed it."""
        family = tree(self.pid)
        self._started.kill()
        self._started.wait()
        wait_until(
            lambda: not living(family), f"all of {self.name}, {family}, to be gone", PATIENCE
        )

    def freeze(self) -> None:
        """Stop it and all its processes where they are (SIGSTOP): nothing of it notices."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal_all(signal.SIGCONT)

    def stop(self) -> None:
        """End it, politely if it is able to, and wait for it."""
        if self._process is not None and self.status is None:
            self.thaw()
            children.stop(self._process, self.program)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    def _signal_all(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)  # it leads a group of its own, which its children are born into
