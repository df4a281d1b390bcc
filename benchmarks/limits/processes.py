"""Runs a limit in two processes that begin together, and believes it only if all rows are right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from typing import TypeAlias

import uvloop

from benchmarks.chain import rows
from benchmarks.peers.harness import Figures, Run

PROCESSES = 2

Chunks: TypeAlias = Iterator[range]
Program: TypeAlias = Callable[[Run, Chunks, Callable[[], None]], Coroutine[None, None, None]]
"""Carries out the orders of the chunks it takes, after it was warm and called the function."""


def chain(run: Run, program: Program, chunk_size: int) -> Figures:
    """Carry out the run's orders, taken in chunks by whichever process is free.

    Raises:
        ValueError: rows are wrong or marks are missing.
        ChildProcessError: a process failed; what it said is on standard error.
    """
    rows.seed(run.postgres, run.jobs)
    context = get_context("spawn")
    taken, together = context.Value("q", 0), context.Barrier(PROCESSES)
    processes = [
        context.Process(target=_run, args=(run, program, chunk_size, taken, together), daemon=True)
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode != 0:
            raise ChildProcessError(f"a process ended with {process.exitcode}")
    rows.verify(run.postgres)
    return {"chain": rows.rate(run.marks, run.jobs)}


def _run(
    run: Run, program: Program, chunk_size: int, taken: Synchronized[int], together: Barrier
) -> None:
    def wait_for_others() -> None:
        together.wait(timeout=30)

    uvloop.run(program(run, _chunks(run.numbers, chunk_size, taken), wait_for_others))


def _chunks(orders: range, size: int, taken: Synchronized[int]) -> Chunks:
    while True:
        with taken.get_lock():
            begin = taken.value
            taken.value += size
        if not (chunk := orders[begin : begin + size]):
            return
        yield chunk


async def at_once(number: int, work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Have ``number`` coroutines at work; the first error of one ends all."""
    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(work())
