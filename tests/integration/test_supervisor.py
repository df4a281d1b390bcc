"""The supervisor restarts what dies and stops its groups in order, politely or at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ops.children import Program
from ops.supervisor import StartError, Supervisor
from tests.processes import living

# Writes its name to a common file when it is told to end, which is also how it says it is up.
POLITE = """
import pathlib, signal, sys, time
diary = pathlib.Path(sys.argv[1])
def note(line):
    with diary.open("a") as file:
        file.write(f"{line}\\n")
def end(number, frame):
    note(f"{sys.argv[2]} ends")
    sys.exit()
signal.signal(signal.SIGTERM, end)
note(f"{sys.argv[2]} is up")
while True:  # a signal that comes just before signal.pause() would wait for the next one
    time.sleep(0.05)
"""

STUBBORN = POLITE.replace("signal.signal(signal.SIGTERM, end)", "signal.signal(15, signal.SIG_IGN)")


class Stage:
    """A supervisor, what it reported, and the diary of its programs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.reports: list[str] = []
        self.changes = 0
        self.supervisor = Supervisor(folder, self.reports.append, self._note_change)

    @property
    def diary(self) -> list[str]:
        file = self._folder / "diary"
        return file.read_text().splitlines() if file.exists() else []

    def program(self, name: str, code: str = POLITE, grace: float = 10.0) -> Program:
        return Program(
            name=name,
            command=(sys.executable, "-S", "-c", code, str(self._folder / "diary"), name),
            environment={},
            grace=grace,
        )

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        async def holds() -> bool:
            return condition()

        await self.supervisor.until(holds, what, 10)

    async def start(self, *programs: Program) -> None:
        self.supervisor.start(*programs)
        signs = {f"{program.name} is up" for program in programs}
        await self.until(lambda: signs <= {*self.diary}, f"{signs} to be up")

    def _note_change(self) -> None:
        self.changes += 1


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    opened = Stage(tmp_path)
    yield opened
    opened.supervisor.hasten()
    await opened.supervisor.stop()


async def test_the_group_started_last_is_gone_before_the_one_before_it_is_told(
    stage: Stage,
) -> None:
    await stage.start(stage.program("database"))
    await stage.start(stage.program("worker-1"), stage.program("worker-2"))
    await stage.start(stage.program("api"))
    await stage.supervisor.stop()
    ends = [line for line in stage.diary if line.endswith("ends")]
    assert ends[0] == "api ends"
    assert {*ends[1:3]} == {"worker-1 ends", "worker-2 ends"}
    assert ends[3:] == ["database ends"]


async def test_what_dies_is_started_again_under_a_new_pid(stage: Stage) -> None:
    await stage.start(stage.program("worker"))
    [first] = stage.supervisor.pids("worker")
    os.kill(first, signal.SIGKILL)
    await stage.until(lambda: stage.diary.count("worker is up") == 2, "it to be up again")
    [second] = stage.supervisor.pids("worker")
    assert second != first
    assert stage.changes == 2
    assert stage.reports == ["worker was ended by SIGKILL; starting it again in 0.2 s"]


async def test_what_cannot_come_up_ends_the_wait_with_its_last_words(stage: Stage) -> None:
    stage.supervisor.start(stage.program("broken", "raise SystemExit('no such broker')"))
    with pytest.raises(StartError, match=r"broken ended with 1[^$]*no such broker"):
        await stage.until(lambda: False, "what never comes")


async def test_a_program_run_once_must_succeed(stage: Stage) -> None:
    await stage.supervisor.run(stage.program("good", "pass"))
    with pytest.raises(StartError, match=r"bad ended with 1[^$]*wrong schema"):
        await stage.supervisor.run(stage.program("bad", "raise SystemExit('wrong schema')"))


async def test_what_ignores_its_signal_is_ended_after_its_grace(stage: Stage) -> None:
    await stage.start(stage.program("stubborn", STUBBORN, grace=0.2))
    pids = stage.supervisor.pids("stubborn")
    await stage.supervisor.stop()
    assert not living(pids)


async def test_a_second_request_to_stop_ends_everything_at_once(stage: Stage) -> None:
    await stage.start(stage.program("polite"))
    await stage.start(stage.program("stubborn", STUBBORN, grace=60.0))
    pids = stage.supervisor.pids("polite", "stubborn")
    began = time.monotonic()
    stopping = asyncio.create_task(stage.supervisor.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    stage.supervisor.hasten()
    await stopping
    assert not living(pids)
    assert time.monotonic() - began < 10


async def test_what_waits_to_be_started_again_is_not_started_after_a_stop(stage: Stage) -> None:
    stage.supervisor.start(stage.program("broken", "raise SystemExit(3)"))
    await stage.until(lambda: bool(stage.reports), "its first end")
    await stage.supervisor.stop()
    assert stage.supervisor.pids("broken") == []
    assert stage.changes == 1
