"""Serves the API, and on its way out answers everybody who had reached it before it closes."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import ExitStack, suppress

import uvicorn
from fastapi import FastAPI

from goodsyard import garbage
from producers.protocol import BoundedProtocol

LAST_CALL_SECONDS = 1.0
"""How long an open connection may take to say what was on its way when we were told to end."""

GRACE_SECONDS = 5
"""How long an answer may take from then on: longer than any but a long poll, which its caller
repeats."""


class DrainingServer(uvicorn.Server):
    """Uvicorn's server, which by itself resets who is connected and hasn't been heard yet."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; from then on what is loaded stays."""
        await super().startup(sockets)
        garbage.look_seldom()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in who waits at the door, hear everybody out, and only then close."""
        # Each answer from now on is its connection's last, and says so.
        close = (b"connection", b"close")
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        await self._take_in()
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_CALL_SECONDS
        while self.server_state.connections and loop.time() < until:  # noqa: ASYNC110 - there is no event of the last one's going
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    async def _take_in(self) -> None:
        """Stop listening; the kernel would reset those who are connected and not accepted yet."""
        with ExitStack() as listening:
            doors = [
                listening.enter_context(socket.socket(fileno=os.dup(door.fileno())))
                for server in self.servers
                for door in server.sockets
            ]
            for server in self.servers:
                server.close()
            guests = []
            for door in doors:
                door.settimeout(0)
                with suppress(BlockingIOError):
                    while True:
                        guests.append(door.accept()[0])
        loop = asyncio.get_running_loop()
        for guest in guests:
            await loop.connect_accepted_socket(self._protocol, guest)

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # theirs: any protocol, by its type
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def configuration(app: FastAPI | str, host: str, port: int) -> uvicorn.Config:
    """Return how the API is served.

    Args:
        app: the application, or the name of what makes it.
        host: the address to listen on.
        port: 0 for a free one.
    """
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=host,
        port=port,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Only a proxy of the operator's may say who calls, and none is configured here.
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def serve(host: str, port: int) -> None:
    """Serve the API until SIGTERM or SIGINT; exits with a status if it can't start."""
    server = DrainingServer(configuration("producers.app:create_app", host, port))
    with suppress(KeyboardInterrupt):  # how Uvicorn passes a SIGINT on, once all is closed
        server.run()
    if not server.started:
        sys.exit("the API could not start: its log says why")
