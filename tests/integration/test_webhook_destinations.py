"""A webhook's connection is judged by the address it is made to, and made to who the URL names."""

from __future__ import annotations

import socket
import ssl

import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import SecretStr

from commerce.notifications.postman import Delivered, Letter, NotDelivered, Postman
from commerce.notifications.signing import WebhookSettings
from goodsyard.job import new_id
from tests.receivers import listen
from tests.saga import SECRET_KEY


class Names(AbstractResolver):
    """Says of every name what it is told to, one answer after the other."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Give the next answer."""
        address = self.addresses.pop(0)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Hold nothing."""


def strict(*, tls: ssl.SSLContext | None = None, names: Names | None = None) -> Postman:
    return Postman(WebhookSettings(secret_key=SecretStr(SECRET_KEY)), tls=tls, resolver=names)


def letter_to(url: str) -> Letter:
    return Letter(new_id(), url, [1], new_id(), "{}")


@pytest.mark.parametrize(
    "url",
    ["https://localhost:8443/", "https://127.0.0.1:8443/", "https://[::1]:8443/",
     "https://[::ffff:127.0.0.1]:8443/", "https://169.254.169.254/latest/meta-data"],
)  # fmt: skip
async def test_no_connection_is_made_to_a_private_address(url: str) -> None:
    sender = strict()
    answered = await sender.deliver(letter_to(url))
    assert isinstance(answered, NotDelivered)
    assert "not a public address" in answered.error
    await sender.close()


async def test_a_name_that_leads_elsewhere_by_now_is_judged_by_where_it_leads() -> None:
    """As a rebinding server of names does: elsewhere when it is asked for the second time."""
    async with listen() as receiver:
        port = receiver.url.rsplit(":", 1)[1].rstrip("/")
        sender = strict(names=Names("127.0.0.1", "10.0.0.1"))
        for _ in range(2):
            answered = await sender.deliver(letter_to(f"http://rebound.example:{port}/"))
            assert isinstance(answered, NotDelivered)
            assert "not a public address" in answered.error
        assert receiver.received == []
        await sender.close()


async def test_certificates_are_checked_against_the_name_in_the_url() -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    settings = WebhookSettings(secret_key=SecretStr(SECRET_KEY), webhook_allow_private=True)
    async with listen(tls) as receiver:
        elsewhere = receiver.url.replace("localhost", "other.example")
        for context, url, taken in (
            (trust, receiver.url, True),
            (trust, elsewhere, False),
            (None, receiver.url, False),
        ):
            sender = Postman(settings, tls=context, resolver=Names("127.0.0.1"))
            answered = await sender.deliver(letter_to(url))
            assert (answered == Delivered(204)) is taken
            if not taken:
                assert isinstance(answered, NotDelivered)
                assert "Certificate" in answered.error
            await sender.close()
        assert len(receiver.received) == 1
        assert receiver.received[0].headers["host"] == receiver.url[8:].rstrip("/")
