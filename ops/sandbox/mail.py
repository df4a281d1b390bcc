"""The mail sink: every message it answered 250 for is in its log, as often as it was delivered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from typing import cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from ops.sandbox.clock import iso, now_ms
from ops.sandbox.faults import Faults
from ops.sandbox.journal import Journal

MAX_MESSAGE_BYTES = 10 * 1024 * 1024
HOSTNAME = "sandbox.goodsyard.example"

_HEADERS = BytesHeaderParser()  # the compat32 policy: the newer one costs half a delivery's CPU


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one recipient; its text stays in the journal, at ``offset``."""

    message_id: str
    to: str
    subject: str
    at: int
    offset: int

    def as_json(self) -> dict[str, object]:
        """Return the entry of ``GET /sandbox/mails``."""
        return {
            "message_id": self.message_id,
            "to": self.to,
            "subject": self.subject,
            "at": iso(self.at),
        }


class Mailbox:
    """Everything that was ever delivered, in order."""

    def __init__(self, journal: Journal) -> None:
        """Read the journal from the beginning.

        Raises:
            JournalError: it holds a line that is no record of ours.
        """
        self._journal = journal
        self._deliveries = [
            Delivery(
                message_id=str(record["message_id"]),
                to=str(record["to"]),
                subject=str(record["subject"]),
                at=int(str(record["at"])),
                offset=offset,
            )
            for offset, record in journal.records()
        ]

    def take(self, to: str, message: bytes) -> None:
        """Write a message down."""
        at = now_ms()
        headers = _HEADERS.parsebytes(message.partition(b"\r\n\r\n")[0])
        message_id = str(headers.get("Message-ID", "")).strip()
        subject = _readable(str(headers.get("Subject", "")))
        text, charset = _as_text(message)
        offset = self._journal.append(
            {
                "message_id": message_id,
                "to": to,
                "subject": subject,
                "at": at,
                "charset": charset,
                "raw": text,
            }
        )
        self._deliveries.append(Delivery(message_id, to, subject, at, offset))

    def deliveries(self, first: int) -> list[dict[str, object]]:
        """Return what is known of every delivery from the ``first``-th on."""
        return [delivery.as_json() for delivery in self._deliveries[first:]]

    def raw(self, number: int) -> bytes | None:
        """Return the ``number``-th delivery (from 0) as it came over the wire."""
        if not 0 <= number < len(self._deliveries):
            return None
        record = self._journal.record_at(self._deliveries[number].offset)
        return str(record["raw"]).encode(str(record["charset"]))


class Sink:
    """What aiosmtpd asks when a message is complete."""

    def __init__(self, mailbox: Mailbox, faults: Faults) -> None:
        self._mailbox = mailbox
        self._faults = faults

    async def handle_DATA(  # noqa: N802 - aiosmtpd finds it by this name
        self, server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Take the message, or do what the armed fault says."""
        if (seconds := self._faults.take("mail_latency")) is not None:
            await asyncio.sleep(seconds)
        if self._faults.take("mail_450") is not None:
            return "450 4.2.1 The mailbox is busy: try again later"
        if self._faults.take("mail_550") is not None:
            return "550 5.1.1 There is no such mailbox"
        try:
            for recipient in envelope.rcpt_tos:
                self._mailbox.take(recipient, envelope.original_content or b"")
        except OSError as error:  # a full disk, say: as a real server, ask to come back
            return f"452 4.3.1 The message can't be stored: {error.strerror}"
        if self._faults.take("mail_drop_after_data") is not None:
            # A cast, because uvloop's transports are none of asyncio's classes.
            cast("asyncio.WriteTransport", server.transport).abort()
            await asyncio.Event().wait()  # until the lost connection cancels this very task
        return "250 2.0.0 Taken"


class Connection(SMTP):
    """One SMTP connection: aiosmtpd's, with the envelope addresses read by a plain split.

    Its own parser takes RFC 5322 apart with all comments and quoting: half the CPU of a delivery.
    """

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        address, closed, rest = arg.removeprefix("<").partition(">")
        if not arg.startswith("<") or not closed or not _is_plain(address):
            parsed: tuple[str | None, str | None] = super()._getaddr(arg)
            return parsed
        return address, rest


async def listen(host: str, port: int, sink: Sink) -> asyncio.Server:
    """Open the SMTP port; port 0 picks a free one."""
    loop = asyncio.get_running_loop()

    def connection() -> Connection:
        return Connection(
            sink,
            data_size_limit=MAX_MESSAGE_BYTES,
            enable_SMTPUTF8=True,
            hostname=HOSTNAME,  # aiosmtpd would ask the resolver for every connection
            ident="Goodsyard sandbox",
            loop=loop,
        )

    return await loop.create_server(connection, host, port)


def _is_plain(address: str) -> bool:
    local, at, domain = address.rpartition("@")
    return bool(local and at and domain) and not set(address) & set(' "\\,:;<>()[]')


def _readable(header: str) -> str:
    """Return a header with its encoded words (RFC 2047) decoded, as it is where they are broken."""
    unfolded = " ".join(header.split())
    if "=?" not in unfolded:
        return unfolded
    try:
        return str(make_header(decode_header(unfolded)))
    except (HeaderParseError, LookupError, UnicodeDecodeError):
        return unfolded


def _as_text(message: bytes) -> tuple[str, str]:
    """Return the message as text and the charset that turns it back into the same bytes."""
    try:
        return message.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return message.decode("latin-1"), "latin-1"
