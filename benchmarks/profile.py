"""Where the time goes: CPU a job of each part of the system, and a flame graph of a worker process.

``python -m benchmarks.profile`` writes ``benchmarks/results/parts.json``, and a flame graph of each
load into ``docs/performance/``. The parts are measured in a run without py-spy, which costs what it
looks at some time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks import marks
from benchmarks.jobs import Noop
from benchmarks.processes import ROOT, children
from benchmarks.sections.chain import PAID, take_in
from benchmarks.sections.queue import fill
from benchmarks.servers import Servers
from benchmarks.terminal import Terminal
from benchmarks.yard import Shop, Yard
from ops.plan import sole_use

GRAPHS = ROOT / "docs" / "performance"
PARTS = ROOT / "benchmarks" / "results" / "parts.json"

_HERTZ = 250  # samples a second; a chunk takes some tens of milliseconds
_SECONDS_BETWEEN_TICKS = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """Something to profile.

    Args:
        name: of the files.
        jobs: how many; the first tenth and the last are left out.
        prepare: puts them in, before anybody works.
        done: how many of them are through.
    """

    name: str
    jobs: int
    prepare: Callable[[Yard, int], None]
    done: Callable[[Yard], int]


def _orders(yard: Yard, orders: int) -> None:
    take_in(yard, orders, paused=True)
    yard.start_gateway()


LOADS = [
    Load(
        "noop",
        100_000,
        lambda yard, jobs: fill(yard, [Noop(number=number) for number in range(jobs)]),
        lambda yard: marks.count(yard.ground.marks),
    ),
    Load("chain", 12_000, _orders, lambda yard: yard.number(PAID)),
]


def main() -> None:
    """Profile every load, and keep what was found."""
    parts = {}
    with Terminal() as tell, sole_use(ROOT / ".bench"), Servers(ROOT / ".bench/servers") as servers:
        shop = Shop.open(servers)
        for load in LOADS:
            tell.say(f"{load.name}: CPU a job")
            with shop.yard() as yard:
                parts[load.name] = _parts(yard, load)
            tell.say(f"{load.name}: a flame graph of a worker process")
            with shop.yard() as yard:
                _draw(yard, load)
    found = orjson.dumps(parts, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    PARTS.write_bytes(found + b"\n")


def _parts(yard: Yard, load: Load) -> dict[str, float]:
    """Return microseconds of CPU a job, by part."""
    with _running(yard, load):
        before = _cpu(yard)
        yard.wait("jobs are through", lambda: load.done(yard), load.jobs * 9 // 10)
        after = _cpu(yard)
        counted = load.jobs * 8 // 10
    return {
        part: round((after[part] - before[part]) / counted * 1e6, 1)
        for part in sorted(after)
        if after[part] > before[part]
    }


def _draw(yard: Yard, load: Load) -> None:
    with _running(yard, load) as worker:
        process = children(worker)[0]
        target = GRAPHS / f"{load.name}-worker.svg"
        drawing = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("py-spy"), "record", "--gil", "--nonblocking"),
                *("--pid", str(process), "--rate", str(_HERTZ), "--duration", "60"),
                *("--format", "flamegraph", "--output", target),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yard.wait("jobs are through", lambda: load.done(yard), load.jobs * 9 // 10)
        drawing.send_signal(signal.SIGINT)  # it draws what it has
        drawing.wait(20)
    target.write_text(target.read_text().replace(f"{ROOT}/", "").replace(f"{sys.base_prefix}/", ""))


@contextmanager
def _running(yard: Yard, load: Load) -> Iterator[int]:
    """Have the load under way, a tenth of it done; gives the worker node's pid."""
    load.prepare(yard, load.jobs)
    yard.start_relay()
    worker = yard.start_workers()
    yard.wait("jobs are through", lambda: load.done(yard), load.jobs // 10)
    yield worker


def _cpu(yard: Yard) -> dict[str, float]:
    """Return the seconds of CPU that each part has used, processes that have ended left out."""
    spent: defaultdict[str, float] = defaultdict(float)
    for name, pid in yard.pids.items():
        spent[name] += _seconds(pid)
        if name == "worker":
            spent["worker processes"] += sum(map(_seconds, children(pid)))
    for program in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = program.read_text().strip()
        except OSError:
            continue  # it has just ended
        if name in {"postgres", "valkey-server"} and _is_below(int(program.parent.name)):
            spent[name] += _seconds(int(program.parent.name))
    return spent


def _is_below(pid: int) -> bool:
    """Tell whether a process was started by this one, or by one that was."""
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(_stat(pid)[1])
    return False


def _seconds(pid: int) -> float:
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) * _SECONDS_BETWEEN_TICKS


def _stat(pid: int) -> list[str]:
    """Return the fields from the third on (proc_pid_stat(5)): the second may have spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 50


if __name__ == "__main__":
    main()
