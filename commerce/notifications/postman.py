"""Delivers webhooks: one signed POST each, to public addresses only, and nothing is followed.

Whoever answers is a stranger. It gets seconds and a kilobyte; no redirect, cookie, compression or
proxy of the environment is heeded, and what it says is made harmless before anybody reads it.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeAlias
from uuid import UUID

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from commerce.notifications.destinations import refuse_private
from commerce.notifications.signing import WebhookSettings, secret_of, signed_headers
from goodsyard.scrub import scrub

CALL_SECONDS = 15.0
"""The most a call may take, from looking up the name to the end of what is read; the Standard
Webhooks specification asks for 15 to 30."""

CONNECT_SECONDS = 5.0
READ_BYTES = 1_024
"""What is read of an answer at the most; only people look at it."""

KEPT_CHARACTERS = 200
"""What is kept of it, in the attempts of the job."""

MOST_PATIENCE_SECONDS = 86_400.0
"""The longest ``Retry-After`` that is heeded."""

_SAYS_WHEN = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_UNPRINTABLE = re.compile(r"[^!-~\u00a1-\ud7ff\ue000-\ufffd]+")


@dataclass(frozen=True, slots=True)
class Letter:
    """One event on its way to one endpoint.

    Args:
        endpoint: whose secrets sign it.
        url: where it goes, as ``destinations.normalise`` returned it.
        generations: of those secrets, the latest first.
        message_id: the event's.
        body: JSON.
    """

    endpoint: UUID
    url: str
    generations: Sequence[int]
    message_id: UUID
    body: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """It was taken."""

    status: int


@dataclass(frozen=True, slots=True)
class Gone:
    """It was answered with 410: the endpoint wants no webhooks any more."""

    error: str


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """Not now, or nobody knows; ``after`` so many seconds, if the endpoint said so."""

    error: str
    after: float | None = None


Delivery: TypeAlias = Delivered | Gone | NotDelivered


class Postman:
    """Delivers; belongs to one event loop, and connects at its first letter."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Sign and go as the settings say.

        Args:
            settings: the key, and whether private addresses will do.
            tls: whom to trust; the system's authorities, or ``SSL_CERT_FILE``, if not given.
            resolver: who knows the addresses of names; the system, if not given.
        """
        self._settings = settings
        self._tls = tls
        self._resolver = resolver
        self._open: aiohttp.ClientSession | None = None

    async def deliver(self, letter: Letter) -> Delivery:
        """Send a letter once; whatever goes wrong is an answer, not an exception."""
        now = datetime.now(UTC)
        secrets = [
            secret_of(self._settings.secret_key, letter.endpoint, generation)
            for generation in letter.generations
        ]
        headers = signed_headers(letter.message_id, letter.body, secrets, now)
        try:
            async with self._session().post(
                # As it was stored: parsed once more it could mean something else.
                URL(letter.url, encoded=True),
                data=letter.body.encode(),
                headers=headers,
                allow_redirects=False,
            ) as response:
                said = "" if response.ok else _harmless(await _beginning(response))
                return _judge(response, said, now)
        except TimeoutError:
            return NotDelivered(f"no answer within {CALL_SECONDS:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return NotDelivered(_harmless(f"{type(error).__name__}: {error}"))

    async def close(self) -> None:
        """Close all connections."""
        if self._open is not None:
            await self._open.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._open is None:
            self._open = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # the engine bounds the calls that are out
                    resolver=self._resolver,
                    ssl=self._tls or ssl.create_default_context(),
                    socket_factory=self._socket,
                ),
                timeout=aiohttp.ClientTimeout(total=CALL_SECONDS, connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                headers={
                    "User-Agent": "Goodsyard",
                    "Content-Type": "application/json",
                    "Accept-Encoding": "identity",
                },
            )
        return self._open

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Make the socket that is connected to ``address``, which nobody looks up again.

        Here every connection passes, to a name or to a bare address: a name that was harmless when
        it was registered, or a moment ago, is judged by where it leads this time.
        """
        family, kind, protocol, _, (host, *_) = address
        if not self._settings.webhook_allow_private:
            refuse_private(str(host))
        return socket.socket(family, kind, protocol)


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Read no more than the beginning of an answer; the connection is closed with the rest."""
    read = bytearray()
    while len(read) < READ_BYTES and (part := await response.content.readany()):
        read += part
    return read[:READ_BYTES].decode(errors="replace")


def _judge(response: aiohttp.ClientResponse, said: str, now: datetime) -> Delivery:
    status = response.status
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return Delivered(status)
    if status < HTTPStatus.BAD_REQUEST:
        return NotDelivered(f"HTTP {status}: redirects are not followed; register the new URL")
    error = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    if status == HTTPStatus.GONE:
        return Gone(error)
    waits = response.headers.get("Retry-After") if status in _SAYS_WHEN else None
    return NotDelivered(error, None if waits is None else _seconds(waits, now))


def _seconds(waits: str, now: datetime) -> float | None:
    """Return what a ``Retry-After`` asks for (RFC 9110, 10.2.3: seconds or a date), if it does."""
    if waits.isascii() and waits.isdigit():
        return min(float(waits[:9]), MOST_PATIENCE_SECONDS)
    try:
        left = (parsedate_to_datetime(waits) - now).total_seconds()
    except (ValueError, TypeError):  # no date, or one without its offset
        return None
    return min(max(left, 0.0), MOST_PATIENCE_SECONDS)


def _harmless(said: str) -> str:
    """Return the beginning of what a stranger said, without control characters and secrets."""
    return scrub(_UNPRINTABLE.sub(" ", said)).strip()[:KEPT_CHARACTERS]
