"""No webhook goes where only we can go, however its URL is dressed up."""

from __future__ import annotations

import asyncio

import pytest

from commerce.notifications.destinations import (
    MAX_LENGTH,
    ForbiddenAddressError,
    UnusableUrlError,
    is_public,
    look_up,
    normalise,
    refuse_private,
)


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://shop.example/hooks?a=1", "https://shop.example/hooks?a=1"),
        ("HTTPS://SHOP.Example:443/", "https://shop.example/"),
        ("https://shop.example:8443/x", "https://shop.example:8443/x"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://93.184.215.14/", "https://93.184.215.14/"),
        ("https://[2606:2800:21F::1]/", "https://[2606:2800:21f::1]/"),
    ],
)
def test_a_usable_url_has_one_form(url: str, stored: str) -> None:
    assert normalise(url, allow_private=False) == stored
    assert normalise(stored, allow_private=False) == stored


@pytest.mark.parametrize(
    "url",
    [
        # Not TLS, or not HTTP at all.
        "http://shop.example/", "ftp://shop.example/", "file:///etc/passwd", "gopher://shop.example",
        "//shop.example/", "shop.example", "javascript:alert(1)", "https:shop.example", "", "https://",
        # Other ports.
        "https://shop.example:22/", "https://shop.example:6379/", "https://shop.example:0/",
        "https://shop.example:80/", "https://shop.example:99999/", "https://shop.example:x/",
        # Somebody else's name in front.
        "https://user@shop.example/", "https://user:secret@shop.example/", "https://:@shop.example/",
        "https://shop.example@169.254.169.254/", "https://shop.example\\@10.0.0.1/",
        # Numbers that a resolver would take for an address.
        "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/",
        "https://017700000001/", "https://0177.0.0.1/", "https://127.0.0.01/", "https://0/",
        "https://127.0.0.1./", "https://1.1.1.1.1/", "https://a.0x10/", "https://256.1.1.1/",
        # Names that are none, and those of interfaces.
        "https://shop.example./", "https://shop..example/", "https://-shop.example/", "https:///x",
        "https://[::1%25eth0]/", "https://[fe80::1%251]/", "https://a%00b.example/",
        "https://a%2eexample%2f/", f"https://{'a' * 64}.example/", f"https://{'a.' * 130}example/",
        # White space and control characters, which parsers drop at different places.
        "https://shop.example/ x", "https://shop.example\t/", "https://shop.example\r\nHost: x/",
        " https://shop.example/", "https://sh\u200bop.example/", "https://shop.example/\x00",
        # What nobody would receive, or store.
        "https://shop.example/#there", "https://shop.example/" + "a" * MAX_LENGTH,
    ],
)  # fmt: skip
def test_a_nasty_url_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(UnusableUrlError, match=r"\w"):
        normalise(url, allow_private=False)


@pytest.mark.parametrize(
    "address",
    [
        # This host, this network, this link.
        "127.0.0.1", "127.255.255.254", "0.0.0.1", "::1", "::",
        "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.100.100.200",
        "169.254.169.254", "fe80::1", "fe80::1%eth0", "fec0::1", "fd00:ec2::254", "fc00::1",
        # Set aside.
        "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "240.0.0.1",
        "255.255.255.255", "2001:db8::1", "3fff::1", "100::1", "5f00::1",
        # To many.
        "224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1",
        # IPv4 in disguise.
        "::ffff:127.0.0.1", "::ffff:93.184.215.14", "::127.0.0.1", "::a00:1",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
        "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.88.99.1",
        # A cloud's own, inside each machine.
        "168.63.129.16",
    ],
)  # fmt: skip
def test_an_address_that_is_not_everybodys_is_refused(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(ForbiddenAddressError, match="not a public address"):
        refuse_private(address)


@pytest.mark.parametrize(
    "address",
    ["93.184.215.14", "1.1.1.1", "100.63.255.255", "172.32.0.1", "2606:4700::1111",
     "64:ff9b::101:101"],
)  # fmt: skip
def test_everybodys_address_is_not(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "https://[::1]/", "https://localhost/", "https://169.254.169.254/latest",
     "https://[::ffff:10.0.0.1]/", "https://\uff11\uff12\uff17.0.0.1/"],
)  # fmt: skip
async def test_a_url_that_leads_to_ourselves_is_refused_when_it_is_registered(url: str) -> None:
    with pytest.raises(UnusableUrlError, match="not a public address"):
        await look_up(normalise(url, allow_private=False))


async def test_a_host_that_is_not_found_yet_will_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("commerce.notifications.destinations.LOOKUP_SECONDS", 0.01)
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    async def hang(*_: object, **__: object) -> list[object]:
        await asked.wait()
        return []

    monkeypatch.setattr(loop, "getaddrinfo", hang)
    await look_up("https://shop.example/")


def test_in_development_plain_http_and_any_port_will_do() -> None:
    assert normalise("http://127.0.0.1:8080/x", allow_private=True) == "http://127.0.0.1:8080/x"
    for url in ("ftp://x/", "http://u@x/", "http://127.1/"):
        with pytest.raises(UnusableUrlError):
            normalise(url, allow_private=True)
