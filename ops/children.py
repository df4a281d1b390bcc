"""A program started here ends with the process that started it, however that one ends.

The kernel's parent-death signal does it (``ops.leash``), so a SIGKILL or a second Ctrl-C leaves
nothing behind. It watches the *thread* that started the program, hence the main thread only.
Linux alone has it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_LEASH = Path(__file__).with_name("leash.py")

# Between the end signal and SIGKILL. Postgres itself kills what ignored SIGQUIT after 5 s.
SECONDS_TO_END = 6.0


@dataclass(frozen=True)
class Account:
    """The user a program runs as; ``search`` lets it enter folders that only root may enter."""

    uid: int
    gid: int
    search: bool


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to start, and how to end it.

    Attributes:
        name: what people call it, and its log file.
        command: the absolute path of the executable and its arguments.
        environment: all of the program's environment.
        folder: its working directory; None is ours.
        given: what it reads from its standard input: the place for a secret, which any user could
            read from a command line. At most a pipe's 64 KiB.
        account: the user it runs as; None is ours.
        stop_signal: asks it to finish what it does and end.
        end_signal: ends it and its own children at once; it gets this too when we die.
        grace: seconds from ``stop_signal`` to ``end_signal``.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path | None = None
    given: str = field(default="", repr=False)
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    end_signal: signal.Signals = signal.SIGKILL
    grace: float = 10.0


def spawn(program: Program, log: Path) -> subprocess.Popen[bytes]:
    """Start ``program`` with both outputs appended to ``log``, out of reach of the terminal's keys.

    Raises:
        RuntimeError: called from a thread other than the main one, whose end would end the program.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"{program.name} must be started from the main thread: it ends with it.")
    with _private_log(log) as output, _readable(program.given, program.account) as given:
        return subprocess.Popen(
            _leashed(program),
            stdin=given,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(program.environment),
            cwd=program.folder,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], program: Program) -> None:
    """End a program: politely, after its grace at once, and in the last resort by SIGKILL."""
    for number, seconds in (
        (program.stop_signal, program.grace),
        (program.end_signal, SECONDS_TO_END),
        (signal.SIGKILL, None),
    ):
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return


def run(program: Program, log: Path) -> int:
    """Run ``program`` to its end and return its status; interrupted, end it first."""
    process = spawn(program, log)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            stop(process, program)


def last_lines(log: Path, count: int = 8) -> str:
    """Return the end of a log: what a program said before it gave up."""
    if not log.exists():
        return "(it said nothing)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-count:]) or "(it said nothing)"


def _private_log(path: Path) -> BinaryIO:
    # A failing statement is logged with its values: for its owner's eyes only.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def _leashed(program: Program) -> list[str]:
    command = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid())]
    command.append(str(int(program.end_signal)))
    if program.account:
        command += ["--account", f"{program.account.uid}:{program.account.gid}"]
        command += ["--search"] if program.account.search else []
    return [*command, "--", *program.command]


@contextmanager
def _readable(text: str, account: Account | None) -> Iterator[int]:
    """Yield a descriptor from which ``account`` reads ``text``, even by opening /dev/stdin anew."""
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "w") as pipe:
            pipe.write(text)
        if account:
            os.fchown(reader, account.uid, account.gid)
        yield reader
    finally:
        os.close(reader)
