"""Starts and stops the sandbox: one process, one event loop, one HTTP and one SMTP port."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvloop
from aiohttp import web

from ops.errors import CommandError
from ops.sandbox.book import Book
from ops.sandbox.control import Control
from ops.sandbox.events import Events, EventTarget
from ops.sandbox.faults import Faults
from ops.sandbox.gateway import Gateway
from ops.sandbox.journal import Journal
from ops.sandbox.mail import Mailbox, Sink, listen
from ops.sandbox.traffic import Traffic

STOP_WITHIN = 1.0  # seconds an answer under way has left after SIGTERM


class SandboxError(CommandError):
    """The sandbox can't run here; the message says why."""


def main(
    http_port: int,
    smtp_port: int,
    data_dir: Path,
    *,
    host: str = "127.0.0.1",
    events: EventTarget | None = None,
) -> None:
    """Run the sandbox until SIGTERM or SIGINT; port 0 picks a free port.

    Prints one line of JSON, ``{"gateway", "smtp"}`` with the addresses, once both ports answer.
    Signed events are sent only where ``events`` says where to.

    Raises:
        JournalError: ``data_dir`` is in use by another sandbox or holds a broken log.
        SandboxError: a port is taken.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (
        closing(Journal(data_dir / "charges.jsonl")) as charges,
        closing(Journal(data_dir / "mails.jsonl")) as mails,
    ):
        ports = _Ports(host, http_port, smtp_port)
        try:
            uvloop.run(_serve(ports, Book(charges), Mailbox(mails), events))
        except OSError as error:
            raise SandboxError(
                f"The sandbox can't listen: {error}. Choose another port."
            ) from error


@dataclass(frozen=True, slots=True)
class _Ports:
    host: str
    http: int
    smtp: int


async def _serve(ports: _Ports, book: Book, mailbox: Mailbox, target: EventTarget | None) -> None:
    stop = _stop_signal()
    faults, traffic = Faults(), Traffic()
    async with AsyncExitStack() as running:
        events = await running.enter_async_context(Events(target)) if target else None
        smtp = await listen(ports.host, ports.smtp, Sink(mailbox, faults))
        running.callback(smtp.close)
        app = web.Application()
        app.add_routes(Gateway(book, faults, traffic, events).routes())
        app.add_routes(Control(book, mailbox, traffic, faults).routes())
        http = await running.enter_async_context(_listening(app, ports.host, ports.http))
        addresses = {
            "gateway": f"http://{ports.host}:{http}",
            "smtp": f"smtp://{ports.host}:{smtp.sockets[0].getsockname()[1]}",
        }
        sys.stdout.write(orjson.dumps(addresses).decode() + "\n")
        sys.stdout.flush()
        await stop.wait()


@asynccontextmanager
async def _listening(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_WITHIN)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    return stop
