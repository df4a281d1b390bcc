"""Hands mails to an SMTP server over connections that stay open for many mails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, TypeAlias
from urllib.parse import unquote

import aiosmtplib
from pydantic import EmailStr, Field, UrlConstraints
from pydantic_core import Url

from goodsyard.settings import Settings

REPLY_SECONDS = 10.0

SmtpUrl = Annotated[
    Url, UrlConstraints(allowed_schemes=["smtp", "smtps"], host_required=True, default_port=25)
]


class MailSettings(Settings):
    """Where mails are handed over, and in whose name."""

    smtp_url: SmtpUrl = Field(
        description="The mail server; `smtps` speaks TLS at once, `smtp` upgrades if it can.",
        examples=["smtp://user:PASSWORD@mail.example.com:587"],
    )
    mail_from: EmailStr = Field(
        description="The sender of all mails.", examples=["shop@example.com"]
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """The server took it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server will never take it (a 5xx reply)."""

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
        # As many as were ever in use at a time, which is the caller's to bound: waiting here for a
        # connection would count as the server's silence.
        self._idle: list[aiosmtplib.SMTP] = []

    async def send(self, to: str, mail: bytes) -> MailAnswer:
        """Hand one mail over; the server's definite no is an answer, not an exception."""
        try:
            async with self._connection() as smtp:
                await smtp.sendmail(self.sender, [to], mail)
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            return _refusal(min(codes), str(error))
        except aiosmtplib.SMTPResponseException as error:
            return _refusal(error.code, f"{error.code} {error.message}")
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            return NotSent(f"{type(error).__name__}: {error}")
        return Sent()

    async def close(self) -> None:
        """Say goodbye on all connections."""
        while self._idle:
            with suppress(aiosmtplib.SMTPException, OSError):
                await self._idle.pop().quit()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiosmtplib.SMTP]:
        smtp = self._idle.pop() if self._idle else self._new()
        if not smtp.is_connected:
            await smtp.connect()
        try:
            yield smtp
        except aiosmtplib.SMTPResponseException:
            self._idle.append(smtp)  # it answered: the connection is fine
            raise
        except BaseException:
            smtp.close()
            raise
        self._idle.append(smtp)

    def _new(self) -> aiosmtplib.SMTP:
        url = self._url
        return aiosmtplib.SMTP(
            hostname=url.host,
            port=url.port,
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            use_tls=url.scheme == "smtps",
            timeout=REPLY_SECONDS,
        )


def _refusal(code: int, detail: str) -> MailAnswer:
    permanent = 500  # RFC 5321, 4.2.1: 5yz is a permanent negative completion reply
    return Rejected(detail) if code >= permanent else NotSent(detail)
