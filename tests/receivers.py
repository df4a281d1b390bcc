"""A receiver of webhooks that really listens, and does with them what a test asks for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiohttp import web
from pydantic import SecretStr
from standardwebhooks import Webhook

from commerce.notifications.signing import secret_of
from tests.saga import SECRET_KEY, Saga

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(status: int, text: str = "", **headers: str) -> Reply:
    """Return what answers every request alike."""

    async def reply(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    return reply


@dataclass(frozen=True)
class Received:
    """A request, as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> UUID:
        """The event's."""
        return UUID(self.headers["webhook-id"])

    def verify(self, secret: str) -> Any:  # noqa: ANN401 - JSON
        """Return the event, as a receiver does that has this secret.

        Raises:
            standardwebhooks.WebhookVerificationError: it isn't signed with it.
        """
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """Somebody's server."""

    url: str = ""
    reply: Reply = field(default_factory=lambda: answer(204))
    received: list[Received] = field(default_factory=list)
    hang_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end, for replies that take for ever."""

    async def hear(self, request: web.Request) -> web.StreamResponse:
        """Keep a request, and reply."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, await request.read()))
        return await self.reply(request)

    async def hang(self, _: web.Request) -> web.StreamResponse:
        """Reply never."""
        await self.hang_up.wait()
        return web.Response()


@asynccontextmanager
async def listen(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Have a receiver for a while."""
    receiver, app = Receiver(), web.Application()
    app.router.add_route("*", "/{rest:.*}", receiver.hear)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = runner.addresses[0][1]
        receiver.url = f"https://localhost:{port}/" if tls else f"http://127.0.0.1:{port}/"
        yield receiver
    finally:
        receiver.hang_up.set()
        await runner.cleanup()


@dataclass
class Endpoint:
    """A receiver that is registered with a saga's shop."""

    saga: Saga
    id: UUID

    def secret(self, generation: int = 1) -> str:
        """Return what its owner was shown."""
        return secret_of(SecretStr(SECRET_KEY), self.id, generation)

    async def column(self, name: str) -> Any:  # noqa: ANN401 - as selected
        """Return what the table says of it."""
        ((value,),) = await self.saga.yard.sql(
            f"SELECT {name} FROM commerce.webhook_endpoint WHERE id = :id",  # noqa: S608 - ours
            id=self.id,
        )
        return value

    async def jobs(self) -> list[tuple[UUID, str, str, str]]:
        """Return id, event, state and error of every webhook for it, in the order of their ids."""
        rows = await self.saga.yard.sql(
            """SELECT id, payload ->> 'event', state::text, coalesce(error, '')
                 FROM goodsyard.job WHERE subject = :id
                UNION ALL
               SELECT id, payload ->> 'event', state::text, coalesce(error, '')
                 FROM goodsyard.job_done WHERE subject = :id
                ORDER BY 1""",
            id=self.id,
        )
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    async def events(self) -> list[str]:
        """Return which events it was told of, sorted."""
        return sorted(event for _, event, _, _ in await self.jobs())


async def register(saga: Saga, url: str, *events: str, tenant: int | None = None) -> Endpoint:
    """Register a URL for events, as the API does."""
    ((endpoint,),) = await saga.yard.sql(
        "INSERT INTO commerce.webhook_endpoint (tenant, url, events)"
        " VALUES (:tenant, :url, CAST(:events AS text[])) RETURNING id",
        tenant=tenant or saga.tenant,
        url=url,
        events=list(events or ["order.*", "payment.*", "job.dead"]),
    )
    return Endpoint(saga, endpoint)
