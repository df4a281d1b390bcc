"""Hands mails to an SMTP server over connections that stay open for many mails.

No mail and no password goes to a server whose certificate doesn't fit its name; whether a
connection may do without encryption is what the address says, and never with a password unasked.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypeAlias
from urllib.parse import parse_qs, unquote

import aiosmtplib
from pydantic import AfterValidator, EmailStr, Field, UrlConstraints
from pydantic_core import Url

from goodsyard.settings import Settings

REPLY_SECONDS = 10.0

IDLE_SECONDS = 30.0
"""How long an unused connection is trusted to be still there; servers and what is in between close
idle ones after a minute or more, and the first mail after that would have to be sent again."""

SMTP_PORT, SMTPS_PORT = 25, 465


class Tls(StrEnum):
    """When a connection that begins in the clear is upgraded (STARTTLS, RFC 3207)."""

    REQUIRED = "required"
    """Always: without it nothing is sent."""
    OPPORTUNISTIC = "opportunistic"
    """Where the server offers it: whoever is in between can make it not be offered."""
    OFF = "off"
    """Never."""


def tls_of(url: Url) -> Tls:
    """Return what an ``smtp`` address says of encryption; one with a password needs it.

    Raises:
        ValueError: it says something else in its query.
    """
    options = parse_qs(url.query or "", keep_blank_values=True)
    asked = options.pop("tls", [])
    if options or len(asked) > 1 or (asked and url.scheme == "smtps"):
        raise ValueError("of options it takes only ?tls=…, once, and only after smtp://")
    if asked:
        try:
            return Tls(asked[0])
        except ValueError:
            raise ValueError(f"?tls= is one of {', '.join(Tls)}") from None
    return Tls.REQUIRED if url.password else Tls.OPPORTUNISTIC


def _says_how_to_encrypt(url: Url) -> Url:
    tls_of(url)
    return url


SmtpUrl = Annotated[
    Url,
    UrlConstraints(allowed_schemes=["smtp", "smtps"], host_required=True),
    AfterValidator(_says_how_to_encrypt),
]


def port_of(url: Url) -> int:
    """Return the port of a mail server's address."""
    return url.port or (SMTPS_PORT if url.scheme == "smtps" else SMTP_PORT)


class MailSettings(Settings):
    """Where mails are handed over, and in whose name."""

    smtp_url: SmtpUrl = Field(
        description="The mail server. `smtps` speaks TLS at once; `smtp` upgrades if the server "
        "can, and must if the address has a password; `?tls=required`, `opportunistic` or `off` "
        "says otherwise.",
        examples=["smtp://user:PASSWORD@mail.example.com:587"],
        repr=False,
    )
    mail_from: EmailStr = Field(
        description="The sender of all mails.", examples=["shop@example.com"]
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """The server took it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server will never take this mail (a 5xx reply to its recipient or its text)."""

    detail: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """Not now, or nobody knows: the mail is sent again, under the same Message-ID."""

    error: str


MailAnswer: TypeAlias = Sent | Rejected | NotSent


class Mailer:
    """Sends mails; belongs to one event loop, connects at its first mail."""

    def __init__(self, settings: MailSettings) -> None:
        """Use the server that the settings name."""
        self.sender = str(settings.mail_from)
        self.domain = self.sender.rpartition("@")[2]
        self._url = settings.smtp_url
        self._tls: ssl.SSLContext | None = None
        # As many as were ever in use at a time, which is the caller's to bound: waiting here for a
        # connection would count as the server's silence. The one used last is used next.
        self._idle: list[tuple[float, aiosmtplib.SMTP]] = []

    async def send(self, to: str, mail: bytes) -> MailAnswer:
        """Hand one mail over; the server's definite no is an answer, not an exception.

        A no to our login or to our name as the sender is about us and not about this mail: once it
        is mended, the mail goes out.
        """
        try:
            async with self._connection() as smtp:
                await smtp.sendmail(self.sender, [to], mail)
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            return _refusal(min(codes), str(error))
        except aiosmtplib.SMTPDataError as error:
            return _refusal(error.code, f"{error.code} {error.message}")
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            return NotSent(f"{type(error).__name__}: {error}")
        except ValueError as error:  # the client refuses to write such an address
            return Rejected(str(error))
        return Sent()

    async def close(self) -> None:
        """Say goodbye on all connections."""
        while self._idle:
            _, smtp = self._idle.pop()
            with suppress(aiosmtplib.SMTPException, OSError):
                await smtp.quit()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiosmtplib.SMTP]:
        smtp = self._take_idle() or await self._connect()
        try:
            yield smtp
        except (aiosmtplib.SMTPResponseException, aiosmtplib.SMTPRecipientsRefused):
            self._put_back(smtp)  # it answered: the connection is fine
            raise
        except BaseException:
            smtp.close()
            raise
        self._put_back(smtp)

    def _take_idle(self) -> aiosmtplib.SMTP | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            since, smtp = self._idle.pop()
            if smtp.is_connected and now - since < IDLE_SECONDS:
                return smtp
            smtp.close()
        return None

    def _put_back(self, smtp: aiosmtplib.SMTP) -> None:
        self._idle.append((asyncio.get_running_loop().time(), smtp))

    async def _connect(self) -> aiosmtplib.SMTP:
        url, tls = self._url, tls_of(self._url)
        if self._tls is None:
            # It reads hundreds of certificates: once, and not on the loop.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        smtp = aiosmtplib.SMTP(
            hostname=(url.host or "").strip("[]"),
            port=port_of(url),
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            use_tls=url.scheme == "smtps",
            start_tls={Tls.REQUIRED: True, Tls.OPPORTUNISTIC: None, Tls.OFF: False}[tls]
            if url.scheme == "smtp"
            else False,
            tls_context=self._tls,
            timeout=REPLY_SECONDS,
        )
        await smtp.connect()
        return smtp


def _refusal(code: int, detail: str) -> MailAnswer:
    permanent = 500  # RFC 5321, 4.2.1: 5yz is a permanent negative completion reply
    return Rejected(detail) if code >= permanent else NotSent(detail)
