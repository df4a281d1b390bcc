"""Webhooks go to public addresses over TLS: an address is judged when it is about to be connected.

A tenant chooses the URL and our servers call it, from within our network: without these rules it
would reach what only we can reach (OWASP, "Server Side Request Forgery Prevention"). A URL is
judged when it is registered, so that its owner hears of it, and the address at each connection,
since a name may lead elsewhere by then. In front of all this belongs a network that lets workers
reach nothing of ours that has a public address: no program can know those.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from yarl import URL

PORTS = frozenset({443, 8443})
"""Ports that speak TLS to the public; others are somebody's database."""

MAX_LENGTH = 2_000
"""Characters of a URL."""

LOOKUP_SECONDS = 5.0
"""How long a name may take to be resolved when its URL is registered."""

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
# "The host ends in a number": what inet_aton would read as an address (127.1, 0x7f.1, 2130706433).
_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")

_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address for networks that have only IPv6
_UNICAST = ip_network("2000::/3")  # all that IANA has ever given out of IPv6
# What counts as global in some release of `ipaddress`, and isn't or leads elsewhere.
_OTHERS_V6 = [
    ip_network("2002::/16"),  # 6to4: any IPv4 address in disguise
    ip_network("2001::/23"),  # protocol assignments, Teredo among them
    ip_network("3fff::/20"),  # documentation, RFC 9637
]
_OTHERS_V4 = [
    ip_network("192.0.0.0/24"),  # protocol assignments; a cloud's metadata
    ip_network("192.88.99.0/24"),  # 6to4 relays
    ip_network("168.63.129.16/32"),  # Azure's host, from inside each of its machines
]


class UnusableUrlError(ValueError):
    """No webhook is sent there; the message says why."""


class ForbiddenAddressError(OSError):
    """The address isn't a public one."""


def normalise(url: str, *, allow_private: bool) -> str:
    """Return a URL as it is stored and called, its host in lower case and in ASCII.

    Args:
        url: as somebody wrote it.
        allow_private: whether plain HTTP and any port will do, as in development.

    Raises:
        UnusableUrlError: it isn't ``https``, its port isn't allowed, it has a user or a fragment,
            or its host is neither a name nor an address in its one usual form.
    """
    if len(url) > MAX_LENGTH or not url.isprintable() or " " in url:
        message = f"a URL is at most {MAX_LENGTH} printable characters, without blanks"
        raise UnusableUrlError(message)
    try:
        parsed = URL(url)
        host = parsed.raw_host or ""
    except ValueError as error:
        raise UnusableUrlError(str(error)) from error
    if parsed.scheme != "https" and not (allow_private and parsed.scheme == "http"):
        raise UnusableUrlError("it must begin with https://")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise UnusableUrlError("it must not carry a user or a password: requests are signed")
    if parsed.raw_fragment:
        raise UnusableUrlError("it must not carry a fragment (#…): nobody would receive it")
    if not allow_private and parsed.port not in PORTS:
        allowed = " and ".join(map(str, sorted(PORTS)))
        message = f"port {parsed.port} is not allowed; {allowed} are"
        raise UnusableUrlError(message)
    _check_host(host)
    return str(parsed)


def _check_host(host: str) -> None:
    if ":" in host or _NUMBER.fullmatch(host):
        try:
            address = ip_address(host)
        except ValueError as error:
            message = f"{host} is not an IP address as it is usually written"
            raise UnusableUrlError(message) from error
        if getattr(address, "scope_id", None):
            message = f"{host} names one of our own network interfaces"
            raise UnusableUrlError(message)
    elif len(host) > 253 or not _NAME.fullmatch(host):  # noqa: PLR2004 - RFC 1035, 2.3.4
        message = f"{host!r} is not the name of a host"
        raise UnusableUrlError(message)


def is_public(address: str) -> bool:
    """Whether an IP address is one that anybody on the internet may be asked to connect to."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip in _NAT64:
        ip = IPv4Address(int(ip) & 0xFFFF_FFFF)
    if not ip.is_global or ip.is_multicast:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _OTHERS_V4)
    # Outside of it are addresses with an IPv4 one inside (::ffff:0:0/96, ::/96) among others.
    return ip in _UNICAST and not any(ip in network for network in _OTHERS_V6)


def refuse_private(address: str) -> None:
    """Refuse an address that is about to be connected.

    Raises:
        ForbiddenAddressError: it isn't public.
    """
    if not is_public(address):
        message = f"{address} is not a public address: no webhook is sent there"
        raise ForbiddenAddressError(errno.EACCES, message)


async def look_up(url: str) -> None:
    """See that a normalised URL's host is public by all of its addresses, as of now.

    It spares its owner a wait for a delivery that fails. A name that leads nowhere yet, or whose
    server is slow, will do: each connection is judged again, by the address it goes to.

    Raises:
        UnusableUrlError: one of them isn't, or the host is no name.
    """
    parsed = URL(url)
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(
                parsed.raw_host, parsed.port, type=socket.SOCK_STREAM
            )
        for _, _, _, _, (address, *_) in found:
            refuse_private(str(address))
    except ForbiddenAddressError as error:
        raise UnusableUrlError(error.strerror) from error
    except UnicodeError as error:
        raise UnusableUrlError(f"the host {parsed.raw_host} is no name: {error}") from error
    except OSError:  # TimeoutError is one, too
        return
