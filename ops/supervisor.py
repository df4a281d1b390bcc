"""Programs run until they are told to stop: what dies comes back, and they stop in order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ops.children import SECONDS_TO_END, Program, last_lines, spawn
from ops.errors import CommandError

# A killed worker is back before anyone looks; a program that can't run doesn't fill its log.
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
# One that ran this long had started well: its next end is a new story, with a short pause again.
_SECONDS_OF_GOOD_LIFE = 30.0
# While everything comes up, a program that ended this often in a row won't succeed by itself.
_ENDS_TO_GIVE_UP = 3
_SECONDS_BETWEEN_LOOKS = 0.05


class StartError(CommandError):
    """A program doesn't come up; the message has its last words and the path of its log."""


@dataclass
class _Minded:
    """A program and its present process."""

    program: Program
    process: subprocess.Popen[bytes]
    started: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    last_status: int = 0
    quick_ends: int = 0


class Supervisor:
    """Starts groups of programs, minds them, and stops the groups in the opposite order.

    Belongs to the main thread and its event loop, whose SIGCHLD it takes.

    Args:
        logs: the folder where each program's log is ``NAME.log``.
        report: told one line whenever a program ends unasked.
        changed: called whenever a program has a new pid.
    """

    def __init__(
        self, logs: Path, report: Callable[[str], None], changed: Callable[[], None]
    ) -> None:
        self._logs = logs
        self._report = report
        self._changed = changed
        self._groups: list[list[_Minded]] = []
        self._minders: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._notice_ends)

    def log(self, program: Program) -> Path:
        """Where a program writes to."""
        return self._logs / f"{program.name}.log"

    def start(self, *programs: Program) -> None:
        """Start a group of programs, which is stopped before all that were started earlier."""
        group = [self._started(program) for program in programs]
        self._groups.append(group)
        self._minders += [asyncio.create_task(self._mind(minded)) for minded in group]
        self._changed()

    async def run(self, program: Program) -> None:
        """Run a program once, to its end.

        Raises:
            StartError: it failed.
        """
        minded = self._started(program)
        self._groups.append([minded])
        await minded.ended.wait()
        if minded.last_status != 0:
            raise StartError(self._last_words(minded))

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float
    ) -> None:
        """Wait until ``condition`` holds.

        Raises:
            StartError: it didn't within ``seconds``, or a program can't stay up.
        """
        deadline = time.monotonic() + seconds
        while not await condition():
            for minded in self._all():
                if minded.quick_ends >= _ENDS_TO_GIVE_UP:
                    raise StartError(self._last_words(minded))
            if time.monotonic() > deadline:
                raise StartError(f"{what} took more than {seconds:.0f} s. Logs: {self._logs}")
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    def pids(self, *names: str) -> list[int]:
        """Return the processes of these programs that run now."""
        return [
            minded.process.pid
            for minded in self._all()
            if minded.program.name in names and not minded.ended.is_set()
        ]

    async def stop(self) -> None:
        """Stop all programs, the group started last first, and wait until they are gone."""
        for minder in self._minders:
            minder.cancel()
        for group in reversed(self._groups):
            await asyncio.gather(*map(self._end, group))

    def hasten(self) -> None:
        """Let ``stop`` be polite no longer."""
        self._hurry.set()

    def _all(self) -> list[_Minded]:
        return [minded for group in self._groups for minded in group]

    def _started(self, program: Program) -> _Minded:
        return _Minded(program, spawn(program, self.log(program)), time.monotonic())

    def _notice_ends(self) -> None:
        for minded in self._all():
            status = minded.process.poll()
            if status is not None:
                minded.last_status = status
                minded.ended.set()

    async def _mind(self, minded: _Minded) -> None:
        while True:
            await minded.ended.wait()
            if time.monotonic() - minded.started > _SECONDS_OF_GOOD_LIFE:
                minded.quick_ends = 0
            minded.quick_ends += 1
            pause = min(_FIRST_PAUSE * 2 ** (minded.quick_ends - 1), _LONGEST_PAUSE)
            self._report(f"{_how_it_ended(minded)}; starting it again in {pause:.1f} s")
            await asyncio.sleep(pause)
            try:
                minded.process = spawn(minded.program, self.log(minded.program))
            except OSError as error:  # no memory, no descriptor, no room for the log: perhaps soon
                self._report(f"{minded.program.name} can't be started now: {error}")
                continue
            minded.started = time.monotonic()
            minded.ended.clear()
            self._changed()

    async def _end(self, minded: _Minded) -> None:
        program = minded.program
        if not minded.ended.is_set():
            minded.process.send_signal(program.stop_signal)
            await self._ended_or_hurry(minded, program.grace)
        for number in (program.end_signal, signal.SIGKILL):
            if not minded.ended.is_set():
                minded.process.send_signal(number)
                with suppress(TimeoutError):
                    await asyncio.wait_for(minded.ended.wait(), SECONDS_TO_END)

    async def _ended_or_hurry(self, minded: _Minded, seconds: float) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (minded.ended, self._hurry)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _last_words(self, minded: _Minded) -> str:
        log = self.log(minded.program)
        return f"{_how_it_ended(minded)}. It said last:\n{last_lines(log)}\nAll of it: {log}"


def _how_it_ended(minded: _Minded) -> str:
    status = minded.last_status
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    return f"{minded.program.name} {how}"
