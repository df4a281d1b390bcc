"""``goodsyard import``: shows how far it is, and says at the end what was done and what was not."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ops.errors import CommandError
from ops.importer.client import Client, ImportStoppedError
from ops.importer.pipeline import Counts, Import
from ops.importer.reading import Refusal, read_orders

INTERRUPTED = 130  # what a shell calls the end of a program by Ctrl-C
GO_ON = "Run the same command again to go on: what is in stays in and is not added twice."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for.

    Args:
        file: CSV if its name ends so, else NDJSON.
        api: the address of the API.
        api_key: the key to it.
        ensure_stock: what SKUs without stock get on hand; None leaves them without.
        refused: where refused rows go, FILE.refused.ndjson unless given; an older one is replaced.
        as_json: end with a line of JSON instead of a sentence.
    """

    file: Path
    api: str
    api_key: str
    ensure_stock: int | None = None
    refused: Path | None = None
    as_json: bool = False

    @property
    def refused_file(self) -> Path:
        """Where refused rows go."""
        return self.refused or self.file.with_name(f"{self.file.name}.refused.ndjson")


def main(options: Options) -> int:
    """Import a file and return the exit status: 0, 1 if rows were refused, 130 if interrupted.

    Raises:
        CommandError: the file can't be read or has no known format, or the API is gone for good or
            doesn't take the key. What was accepted before that is kept.
    """
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    try:
        counts, is_whole = asyncio.run(_until_interrupted(options, console))
    except KeyboardInterrupt:  # the second Ctrl-C, which doesn't wait for what is under way
        console.print(f"Broken off. {GO_ON}")
        return INTERRUPTED
    _report(options, counts, time.monotonic() - started, console)
    if not is_whole:
        console.print(f"Interrupted. {GO_ON}")
        return INTERRUPTED
    return 1 if counts.refused else 0


async def import_orders(options: Options, console: Console, stop: asyncio.Event) -> Counts:
    """Import a file, with a progress bar on ``console``, until its end or until ``stop`` is set.

    Raises:
        CommandError: as ``main``.
    """
    with (
        _reading(options.file) as size,
        _progress(console, size) as show,
        _RefusedRows(options) as refused,
    ):
        async with Client(options.api, options.api_key, console.print) as client:
            run = Import(
                client,
                ensure_stock=options.ensure_stock,
                on_refusal=refused.write,
                on_progress=show,
            )
            try:
                await run.run(read_orders(options.file), stop)
            except ImportStoppedError as error:
                done = f"{run.counts.orders:,} orders are done."
                raise CommandError(f"{error}.\n{done} {GO_ON}") from error
            if not stop.is_set():
                run.counts.bytes = size  # blank lines are no orders, and yet done
                show(run.counts)
            return run.counts


async def _until_interrupted(options: Options, console: Console) -> tuple[Counts, bool]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        console.print("Finishing what is under way; Ctrl-C again breaks it off.")

    loop.add_signal_handler(signal.SIGINT, interrupt)
    counts = await import_orders(options, console, stop)
    return counts, not stop.is_set()


def _report(options: Options, counts: Counts, seconds: float, console: Console) -> None:
    if options.as_json:
        summary = {
            "orders": counts.orders,
            "accepted": counts.accepted,
            "replayed": counts.replayed,
            "refused": counts.refused,
            "seconds": round(seconds, 3),
        }
        sys.stdout.write(orjson.dumps(summary).decode() + "\n")
    else:
        sys.stdout.write(
            f"{counts.orders:,} orders in {seconds:.1f} s: {counts.accepted:,} accepted, "
            f"{counts.replayed:,} accepted before, {counts.refused:,} refused\n"
        )
    if counts.refused:
        console.print(f"What was refused, and why: {options.refused_file}")


@contextmanager
def _reading(file: Path) -> Iterator[int]:
    """Yield the size of a file in bytes, and explain what goes wrong with it."""
    try:
        yield file.stat().st_size
    except OSError as error:
        raise CommandError(f"{error.filename or file} can't be used: {error.strerror}.") from error


@contextmanager
def _progress(console: Console, size: int) -> Iterator[Callable[[Counts], None]]:
    """Yield what shows how far an import of ``size`` bytes is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[orders]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Orders", total=size, orders="")
        started = time.monotonic()

        def show(counts: Counts) -> None:
            rate = counts.orders / max(time.monotonic() - started, 1e-3)
            refused = f", {counts.refused:,} refused" if counts.refused else ""
            text = f"{counts.orders:,} ({rate:,.0f}/s{refused})"
            progress.update(task, completed=counts.bytes, orders=text)

        yield show


class _RefusedRows:
    """The file of refused rows, which is there only if there are any."""

    def __init__(self, options: Options) -> None:
        self._path = options.refused_file
        self._file: BinaryIO | None = None
        if self._path.exists() and self._path.samefile(options.file):
            raise CommandError("Refused rows can't go into the very file that is read.")

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, refusal: Refusal) -> None:
        if self._file is None:
            self._file = self._path.open("wb")
        rows = refusal.rows
        entry = {"line": rows.line, "reason": refusal.reason, "rows": rows.text}
        self._file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
