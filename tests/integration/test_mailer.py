"""Mails against a real SMTP server: encrypted as the address says, and over few connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import ValidationError

from commerce.notifications.mailer import Mailer, MailSettings, NotSent, Rejected, Sent

ANN = "ann@example.com"
MAIL = b"Subject: Hello\r\n\r\nHi.\r\n"
USER, PASSWORD = "shop", "p@ss/word"


@dataclass
class Server:
    """A mail server, and what it saw."""

    port: int = 0
    connections: int = 0
    encrypted: list[bool] = field(default_factory=list)
    """Whether each mail came over TLS."""
    logins: list[bool] = field(default_factory=list)
    """Whether each password came over TLS."""
    transports: list[asyncio.Transport] = field(default_factory=list)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a connection has ended."""
    refuse_sender: bool = False

    def authenticate(
        self, server: SMTP, session: Session, _envelope: Envelope, _how: str, data: LoginPassword
    ) -> AuthResult:
        self.logins.append(session.ssl is not None or self.is_encrypted(server))
        right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)

    @staticmethod
    def is_encrypted(server: SMTP) -> bool:
        return server.transport is not None and bool(server.transport.get_extra_info("sslcontext"))

    async def handle_MAIL(  # noqa: N802 - aiosmtpd finds it by this name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: object
    ) -> str:
        if self.refuse_sender:
            return "550 5.7.1 Not in that name"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - the same
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: object
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 There is no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - the same
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if b"virus" in (envelope.original_content or b""):
            return "554 5.6.0 Not this"
        self.encrypted.append(session.ssl is not None or self.is_encrypted(server))
        return "250 OK"


class Counted(SMTP):
    """aiosmtpd's, which tells of its connections."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(self.event_handler, Server)
        assert isinstance(transport, asyncio.Transport)
        if transport not in self.event_handler.transports:
            self.event_handler.connections += 1
            self.event_handler.transports.append(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        assert isinstance(self.event_handler, Server)
        self.event_handler.lost.set()
        super().connection_lost(error)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The one authority that is believed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


def certified(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@contextlib.asynccontextmanager
async def serving(
    *,
    at_once: ssl.SSLContext | None = None,
    upgrade: ssl.SSLContext | None = None,
    login: bool = False,
) -> AsyncIterator[Server]:
    """Have a mail server that speaks TLS at once, or offers it, or neither."""
    seen = Server()
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        return Counted(
            seen,
            hostname="mail.test",
            loop=loop,
            tls_context=upgrade,
            authenticator=seen.authenticate if login else None,
            auth_require_tls=False,  # it would take a password in the clear
        )

    server = await loop.create_server(connection, "127.0.0.1", 0, ssl=at_once)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for transport in seen.transports:
            transport.abort()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def mailing(
    server: Server, scheme: str, *, login: str = "", options: str = ""
) -> AsyncIterator[Mailer]:
    settings = MailSettings.model_validate(
        {
            "smtp_url": f"{scheme}://{login}127.0.0.1:{server.port}{options}",
            "mail_from": "shop@example.com",
        }
    )
    mailer = Mailer(settings)
    try:
        yield mailer
    finally:
        await mailer.close()


LOGIN = f"{USER}:p%40ss%2Fword@"


async def test_over_smtps_everything_is_encrypted_and_many_mails_share_a_connection(
    authority: trustme.CA,
) -> None:
    async with (
        serving(at_once=certified(authority), login=True) as server,
        mailing(server, "smtps", login=LOGIN) as mailer,
    ):
        for _ in range(20):
            assert await mailer.send(ANN, MAIL) == Sent()
    assert server.encrypted == [True] * 20
    assert (server.connections, server.logins) == (1, [True])


@pytest.mark.parametrize("options", ["", "?tls=required"])
async def test_a_password_goes_out_after_the_upgrade_only(
    authority: trustme.CA, options: str
) -> None:
    async with (
        serving(upgrade=certified(authority), login=True) as server,
        mailing(server, "smtp", login=LOGIN, options=options) as mailer,
    ):
        assert await mailer.send(ANN, MAIL) == Sent()
    assert (server.logins, server.encrypted) == ([True], [True])


@pytest.mark.parametrize(
    ("login", "options"), [(LOGIN, ""), (LOGIN, "?tls=required"), ("", "?tls=required")]
)
async def test_where_encryption_is_needed_and_not_offered_nothing_is_sent(
    login: str, options: str
) -> None:
    async with (
        serving(login=bool(login)) as server,
        mailing(server, "smtp", login=login, options=options) as mailer,
    ):
        answer = await mailer.send(ANN, MAIL)
    assert isinstance(answer, NotSent)
    assert "STARTTLS" in answer.error
    assert (server.logins, server.encrypted) == ([], [])


async def test_what_needs_no_encryption_is_encrypted_where_it_can_be(
    authority: trustme.CA,
) -> None:
    async with (
        serving(upgrade=certified(authority)) as able,
        serving() as unable,
        mailing(able, "smtp") as to_able,
        mailing(unable, "smtp") as to_unable,
        mailing(able, "smtp", options="?tls=off") as in_the_clear,
    ):
        for mailer in (to_able, to_unable, in_the_clear):
            assert await mailer.send(ANN, MAIL) == Sent()
    assert (able.encrypted, unable.encrypted) == ([True, False], [False])


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("wrong", ["the authority", "the name"])
async def test_no_mail_goes_to_a_server_that_is_not_the_one_it_claims_to_be(
    authority: trustme.CA, scheme: str, wrong: str
) -> None:
    if wrong == "the name":
        context = certified(authority, "mail.example.com")
    else:
        context = certified(trustme.CA())
    at_once, upgrade = (context, None) if scheme == "smtps" else (None, context)
    async with (
        serving(at_once=at_once, upgrade=upgrade) as server,
        mailing(server, scheme) as mailer,
    ):
        answer = await mailer.send(ANN, MAIL)
    assert isinstance(answer, NotSent)
    assert server.encrypted == []


async def test_a_no_to_us_is_not_a_no_to_the_mail(authority: trustme.CA) -> None:
    """A password that was changed must not cost the mails of the day."""
    async with serving(at_once=certified(authority), login=True) as server:
        async with mailing(server, "smtps", login="shop:wrong@") as mailer:
            assert isinstance(await mailer.send(ANN, MAIL), NotSent)
        assert server.logins, "it was asked"
        server.refuse_sender = True
        async with mailing(server, "smtps", login=LOGIN) as mailer:
            assert isinstance(await mailer.send(ANN, MAIL), NotSent)
            server.refuse_sender = False
            assert await mailer.send(ANN, MAIL) == Sent()


async def test_a_no_to_a_mail_is_for_good_and_costs_no_connection() -> None:
    async with serving() as server, mailing(server, "smtp") as mailer:
        assert isinstance(await mailer.send("nobody@example.com", MAIL), Rejected)
        assert isinstance(await mailer.send(ANN, b"Subject: virus\r\n\r\n"), Rejected)
        assert isinstance(await mailer.send("a b@example.com> SIZE=0", MAIL), Rejected)
        assert await mailer.send(ANN, MAIL) == Sent()
    assert server.encrypted == [False]
    assert server.connections <= 2, "only what was never written down may have cost one"


async def test_a_connection_that_the_server_closed_costs_no_mail() -> None:
    async with serving() as server, mailing(server, "smtp") as mailer:
        assert await mailer.send(ANN, MAIL) == Sent()
        server.transports[0].write_eof()  # whereupon the other end hangs up
        await asyncio.wait_for(server.lost.wait(), 10)
        assert await mailer.send(ANN, MAIL) == Sent()
    assert server.connections == 2


async def test_mails_at_once_have_a_connection_each_and_later_ones_none_of_their_own() -> None:
    async with serving() as server, mailing(server, "smtp") as mailer:
        for _ in range(3):
            answers = await asyncio.gather(*(mailer.send(ANN, MAIL) for _ in range(4)))
            assert answers == [Sent()] * 4
    assert server.connections == 4


async def test_a_server_that_is_away_is_asked_again_later() -> None:
    async with serving() as server:
        pass
    async with mailing(server, "smtp") as mailer:
        assert isinstance(await mailer.send(ANN, MAIL), NotSent)


@pytest.mark.parametrize(
    "address",
    [
        "http://mail.example.com",
        "smtp://",
        "smtp://mail.example.com?tls=maybe",
        "smtp://mail.example.com?tls=",
        "smtp://mail.example.com?tls=off&tls=required",
        "smtp://mail.example.com?verify=no",
        "smtps://mail.example.com?tls=off",
    ],
)
def test_an_address_that_says_something_else_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="smtp_url"):
        MailSettings.model_validate({"smtp_url": address, "mail_from": "shop@example.com"})


def test_the_password_is_in_no_log() -> None:
    address = f"smtp://{LOGIN}mail.example.com"
    settings = MailSettings.model_validate({"smtp_url": address, "mail_from": "shop@example.com"})
    assert "p%40ss" not in repr(settings)
