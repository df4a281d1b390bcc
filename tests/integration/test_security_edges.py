"""What no request may do to a server that is reached by sockets: hold it, fill it, or crash it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from producers import bodies, protocol
from producers.server import DrainingServer, configuration
from tests.integration.conftest import Api, order_for


@dataclass
class Door:
    """Where a server listens, and who may ask it for everything."""

    host: str
    port: int
    api: Api

    @property
    def head(self) -> bytes:
        """The headers that every request has."""
        authorization = self.api.http.headers["Authorization"]
        return f"Host: {self.host}\r\nAuthorization: {authorization}\r\n".encode()

    async def say(self, *parts: bytes, patience: float = 5) -> tuple[int, dict[str, Any] | None]:
        """Send ``parts`` and return the status and the body of what is answered (0: nothing)."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            async with asyncio.timeout(patience):
                return await _answer(reader)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any] | None]:
    line = await reader.readline()
    if not line:
        return 0, None
    length = 0
    while (header := (await reader.readline()).strip().lower()) != b"":
        if header.startswith(b"content-length:"):
            length = int(header.partition(b":")[2])
    body = await reader.readexactly(length)
    return int(line.split()[1]), json.loads(body) if body else None


@pytest.fixture
async def door(api: Api) -> AsyncIterator[Door]:
    """The same application, behind the server that people run."""
    config = configuration(api.app, "127.0.0.1", 0)
    config.lifespan = "off"  # the fixture has started it
    server = DrainingServer(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    ticking = asyncio.create_task(server.main_loop())
    yield Door(host, port, api)
    server.should_exit = True
    await ticking
    await server.shutdown()


async def test_a_head_that_never_ends_is_given_up(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert protocol.HEAD_SECONDS <= 10
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    status, problem = await door.say(b"GET /v1/orders HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    assert (status, problem and problem["type"]) == (408, "/problems/request-too-slow")
    assert await door.say() == (0, None)  # who says nothing at all is shown out, too


async def test_a_second_request_has_no_more_time_than_the_first(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection(door.host, door.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await _answer(reader))[0] == 200
    writer.write(b"GET /healthz HT")
    assert (await _answer(reader))[0] == 408
    assert await reader.read() == b""
    writer.close()


async def test_a_body_that_trickles_is_given_up(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.1)
    status, problem = await door.say(
        b"POST /v1/orders HTTP/1.1\r\n" + door.head + b"Idempotency-Key: k\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    assert (status, problem and problem["type"]) == (408, "/problems/body-too-slow")


async def test_who_was_answered_early_may_not_go_on_sending_for_ever(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection(door.host, door.port)
    writer.write(b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n{")
    assert (await _answer(reader))[0] == 401
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_headers_are_read_up_to_their_limit(door: Door) -> None:
    line = b"X-Many: " + b"x" * 1_000 + b"\r\n"
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    assert (await door.say(request + line * 20 + b"\r\n"))[0] == 200
    status, problem = await door.say(request, *[line] * 300)
    assert (status, problem and problem["type"]) == (431, "/problems/headers-too-large")


HTTP = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "two lengths": b"GET /v1/orders HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length below zero": b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length beyond numbers": b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: "
    + b"9" * 30
    + b"\r\n\r\n",
    "a bare address": b"GET \xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header with a NUL": b"GET /healthz HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\n X: a\r\n\r\n",
}


async def test_what_breaks_the_rules_of_http_is_a_clear_400(door: Door) -> None:
    for what, request in HTTP.items():
        status, problem = await door.say(request)
        told = (status, problem and problem["type"])
        assert told == (400, "/problems/malformed-request"), what


ODD: dict[str, tuple[bytes, int]] = {
    "an upgrade": (
        b"GET /v1/orders HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        200,
    ),
    "another method": (b"TRACE /v1/orders HTTP/1.1\r\n", 405),
    "a preflight": (b"OPTIONS /v1/orders HTTP/1.1\r\nOrigin: https://x.example\r\n", 405),
    "an address in full": (b"GET http://x/v1/orders HTTP/1.1\r\n", 200),
    "an address with letters in code": (b"GET /%76%31/orders HTTP/1.1\r\n", 200),
    "a key in another alphabet": (
        b"POST /v1/orders/bulk HTTP/1.1\r\nIdempotency-Key: \xe4\r\n",
        415,
    ),
    "a request id in another alphabet": (b"GET /v1/orders HTTP/1.1\r\nX-Request-Id: \xff\r\n", 200),
    "bytes that are no text": (b"GET /v1/stock/%ff%fe HTTP/1.1\r\n", 404),
    "a step up": (b"GET /v1/../v1/orders HTTP/1.1\r\n", 404),
    "two slashes": (b"GET //v1/orders HTTP/1.1\r\n", 404),
    "a query of half a pair": (b"GET /v1/orders?cursor=%ed%a0%80 HTTP/1.1\r\n", 422),
    "a query with NUL": (b"GET /v1/jobs?kind=%00 HTTP/1.1\r\n", 422),
    "a number in other digits": (b"GET /v1/orders?limit=%D9%A3 HTTP/1.1\r\n", 422),
    "a number that is none": (
        b"GET /v1/orders/01a20661-f237-70fc-9b4b-ad9799d58459?wait=nan HTTP/1.1\r\n",
        422,
    ),
    "an endless number": (b"GET /v1/orders?limit=" + b"9" * 5_000 + b" HTTP/1.1\r\n", 422),
}


async def test_what_is_odd_is_served_or_refused_and_never_a_failure(door: Door) -> None:
    told = {what: await door.say(start + door.head + b"\r\n") for what, (start, _) in ODD.items()}
    assert {what: status for what, (status, _) in told.items()} == {
        what: expected for what, (_, expected) in ODD.items()
    }


async def test_a_caller_is_counted_as_itself_whatever_it_forwards(door: Door) -> None:
    limited = await door.api.caller("stock:read", unlimited=False)
    url = f"http://{door.host}:{door.port}/v1/stock/CD"
    async with httpx.AsyncClient() as http:
        left = []
        for number in range(3):
            forwarded = {
                "X-Forwarded-For": f"192.0.2.{number}",
                "Forwarded": f"for=192.0.2.{number}",
                "X-Real-IP": f"192.0.2.{number}",
            }
            guess = await http.get(url, headers={**forwarded, "Authorization": "Bearer x"})
            left.append(int(guess.headers["RateLimit-Remaining"]))
            await http.get(url, headers={**forwarded, **limited})
    assert left == [59, 58, 57]
    counted = [key async for key in door.api.services.redis.scan_iter("goodsyard:rate:*")]
    assert sorted(key.split(":")[2] for key in counted) == ["failures", "standard"]


NUMBERS = [
    "true",
    "1.0",
    "1e2",
    "1E2",
    "-1",
    "-0.0",
    "NaN",
    "Infinity",
    "-Infinity",
    '"1"',
    "null",
    "9223372036854775808",
    "18446744073709551616",
    "1" + "0" * 400,
    "9" * 5_000,
    "0x10",
    "01",
    "+1",
    "1_000",
    "[1]",
]


async def test_an_amount_is_a_whole_number_or_refused(api: Api) -> None:
    whole = json.dumps(order_for(await api.user()))
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    for number in NUMBERS:
        for member in ('"unit_amount": 1250', '"quantity": 2'):
            assert member in whole
            order = whole.replace(member, f"{member.partition(':')[0]}: {number}")
            answer = await api.http.post("/v1/orders", content=order, headers=headers)
            assert answer.status_code in {400, 422}, (member, number, answer.text)
            assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await api.http.get("/v1/orders")).json()["data"] == []


async def test_a_hundred_lines_are_an_order_and_one_more_is_none(api: Api) -> None:
    user = await api.user()
    line = {"sku": "CD", "quantity": 1, "unit_amount": 1}
    assert (await api.submit(order_for(user, lines=[line] * 100))).status_code == 202
    for lines in ([line] * 101, []):
        answer = await api.submit(order_for(user, lines=lines))
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "#/lines"
