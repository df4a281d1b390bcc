"""Measures one section of one system, ends within two minutes and leaves no process behind.

A peer says how its two worker processes start and how its producer sends; the rest is here and the
same for all. The standard library is all it takes, since each peer has an environment of its own
(``benchmarks.chain`` asks for psycopg, where there is a chain).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from benchmarks import marks

MOST_SECONDS = 110
"""A run that takes longer has failed."""

LATENCY_SAMPLES = 300
WARM_SECONDS = 3.0
"""How long single jobs run before any is measured: the second worker may be up a second later."""

GAP_SECONDS = (0.008, 0.020)
"""From the start of a job to the next call: long enough for the queue to be idle."""

_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.02
_LOOK_SECONDS_WHEN_IDLE = 0.002

Figures = dict[str, float]


@dataclass(frozen=True)
class Run:
    """What was asked for, and where the servers are."""

    system: str
    section: str
    jobs: int
    redis: str
    postgres: str
    gateway: str
    folder: Path
    """Empty, and ours until the end."""
    result: Path

    @property
    def marks(self) -> Path:
        """The folder of the jobs' marks."""
        return self.folder / "marks"

    @property
    def numbers(self) -> range:
        """The jobs' numbers."""
        return range(1, self.jobs + 1)


class Peer(ABC):
    """One system, as its bench.py describes it, and its producer.

    Jobs are of the kinds ``noop``, ``nap`` (50 ms) and ``order`` (the chain).
    """

    tasks: ModuleType
    """Its tasks.py; imported once the environment says where the servers are."""

    def __init__(self, run: Run) -> None:
        """Describe the system for one run."""
        self.run = run

    def prepare(self) -> None:  # noqa: B027 - some need nothing
        """Make the system's tables, and connect the producer."""

    @abstractmethod
    def workers(self) -> list[list[str]]:
        """Return the commands that start the two worker processes, for the section at hand."""

    @abstractmethod
    def one(self, kind: str, number: int) -> None:
        """Send one job as a request's handler would; return when the broker has it."""

    def many(self, kind: str, numbers: Sequence[int]) -> None:
        """Send jobs the fastest way the system has; this one has none but one by one."""
        for number in numbers:
            self.one(kind, number)

    def rest(self, seconds: float) -> None:
        """Let time pass between two jobs."""
        time.sleep(seconds)


class AsyncPeer(Peer):
    """A system whose producer is asynchronous: it has one event loop, which runs in its calls."""

    def prepare(self) -> None:
        """Open the loop and connect."""
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self.connect())

    def one(self, kind: str, number: int) -> None:
        """Send one job, and return when the broker has it."""
        self._loop.run_until_complete(self.send(kind, number))

    def many(self, kind: str, numbers: Sequence[int]) -> None:
        """Send jobs within one call of the loop."""
        self._loop.run_until_complete(self.send_many(kind, numbers))

    def rest(self, seconds: float) -> None:
        """Let the loop do what a system leaves to it after a call, such as to notify."""
        self._loop.run_until_complete(asyncio.sleep(seconds))

    @abstractmethod
    async def connect(self) -> None:
        """Make the system's tables, and connect the producer."""

    @abstractmethod
    async def send(self, kind: str, number: int) -> None:
        """Send one job."""

    async def send_many(self, kind: str, numbers: Sequence[int]) -> None:
        """Send jobs the fastest way the system has; this one has none but one by one."""
        for number in numbers:
            await self.send(kind, number)


def main(peer: type[Peer], tasks: str) -> NoReturn:
    """Run what the command line asks for on a peer whose tasks are in the module ``tasks``."""

    def measure(run: Run) -> Figures:
        peer.tasks = import_module(tasks)
        described = peer(run)
        described.prepare()
        return _SECTIONS[run.section](described)

    run_and_report(measure)


def run_and_report(measure: Callable[[Run], Figures]) -> NoReturn:
    """Do what the command line asks for, write the figures, and end, whatever threads there are."""
    run = _arguments()
    # Workers read them too.
    os.environ |= {
        marks.FOLDER: str(run.marks),
        "BENCH_SECTION": run.section,
        "BENCH_REDIS": run.redis,
        "BENCH_POSTGRES": run.postgres,
        "BENCH_GATEWAY": run.gateway,
    }
    run.marks.mkdir()
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _give_up)
    signal.alarm(MOST_SECONDS)
    status = 0
    try:
        run.result.write_text(json.dumps(measure(run)))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told, and we end
        traceback.print_exc()
        sys.stderr.write(f"{run.system} {run.section}: {type(error).__name__}: {error}\n")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _arguments() -> Run:
    parser = argparse.ArgumentParser()
    parser.add_argument("system", nargs="?", default="limit")
    parser.add_argument("section", choices=["noop", "enqueue", "io50", "latency", "chain"])
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--redis", default="")
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    return Run(**vars(parser.parse_args()))


def _give_up(number: int, _: FrameType | None) -> NoReturn:
    if number == signal.SIGALRM:
        raise TimeoutError(f"not done after {MOST_SECONDS} s")
    raise InterruptedError("told to end")


def _drain(peer: Peer, kind: str) -> Figures:
    """Fill the queue, then start the workers: the rate is from the first job to the last."""
    peer.many(kind, peer.run.numbers)
    with _workers(peer) as workers:
        workers.wait(peer.run.jobs)
    return {peer.run.section: marks.rate(peer.run.marks, peer.run.numbers)}


def _enqueue(peer: Peer) -> Figures:
    """Nobody works meanwhile; the first job, before the clock runs, opens what it has to."""
    peer.one("noop", 0)
    begin = time.perf_counter()
    peer.many("noop", peer.run.numbers)
    seconds = time.perf_counter() - begin
    return {"enqueue": peer.run.jobs / seconds}


def _latency(peer: Peer) -> Figures:
    sent: list[int] = []  # the moment of each call, by the number of the job

    def send_and_await() -> None:
        sent.append(time.monotonic_ns())
        peer.one("noop", len(sent) - 1)
        workers.wait(len(sent), lambda: peer.rest(_LOOK_SECONDS_WHEN_IDLE))
        peer.rest(random.uniform(*GAP_SECONDS))  # noqa: S311 - no secret

    with _workers(peer) as workers:
        send_and_await()  # takes as long as a worker takes to come up
        warm = time.monotonic() + WARM_SECONDS
        while time.monotonic() < warm:
            send_and_await()
        warmed = len(sent)
        for _ in range(LATENCY_SAMPLES):
            send_and_await()
    marks.rate(peer.run.marks, range(len(sent)))  # each ran once
    started = dict(marks.read(peer.run.marks))
    waits = [(started[number] - sent[number]) / 1e6 for number in range(warmed, len(sent))]
    percentiles = statistics.quantiles(waits, n=100, method="inclusive")
    return {"latency_p50": percentiles[49], "latency_p99": percentiles[98]}


def _chain(peer: Peer) -> Figures:
    from benchmarks.chain import rows  # noqa: PLC0415 - psycopg; a peer may be without

    run = peer.run
    rows.seed(run.postgres, run.jobs)
    peer.many("order", run.numbers)
    with _workers(peer) as workers:
        workers.wait(len(rows.marks_of(run.jobs)))
    rows.verify(run.postgres)
    return {"chain": rows.rate(run.marks, run.jobs)}


_SECTIONS: dict[str, Callable[[Peer], Figures]] = {
    "noop": lambda peer: _drain(peer, "noop"),
    "io50": lambda peer: _drain(peer, "nap"),
    "enqueue": _enqueue,
    "latency": _latency,
    "chain": _chain,
}


class _Workers:
    """Worker processes that run, each the first of its own group."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, command: list[str]) -> None:
        log = self._run.folder / f"worker-{len(self._started) + 1}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )
        self._started.append((process, log))

    def wait(
        self, expected: int, rest: Callable[[], None] = lambda: time.sleep(_LOOK_SECONDS)
    ) -> None:
        """Wait for a number of marks.

        Raises:
            ChildProcessError: a worker ended.
        """
        while marks.count(self._run.marks) < expected:
            for process, log in self._started:
                if process.poll() is not None:
                    last = log.read_text(errors="replace")[-2000:]
                    raise ChildProcessError(f"a worker ended with {process.returncode}:\n{last}")
            rest()

    def stop(self) -> None:
        for process, _ in self._started:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for process, _ in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(process, signal.SIGKILL)  # whoever of it is left
            process.wait()


def _signal_group(process: subprocess.Popen[Any], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def _workers(peer: Peer) -> Iterator[_Workers]:
    workers = _Workers(peer.run)
    try:
        for command in peer.workers():
            workers.start(command)
        yield workers
    finally:
        workers.stop()
