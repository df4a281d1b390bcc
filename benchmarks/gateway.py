"""A payment gateway that takes 20 ms a call and next to no CPU, the same one for every system.

``python -m benchmarks.gateway --port P`` answers ``POST /v1/payment_intents`` with a succeeded
PaymentIntent named after the payment in its metadata: a repeat gets the same one. ``--seconds S``
makes it take longer, ``--marks`` leaves the moment of each call's arrival
(``benchmarks.marks``), under the lower half of its payment's id.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from functools import partial
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl
from uuid import UUID

import orjson
import uvloop

from benchmarks import marks

ANSWER_SECONDS = 0.02

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LOWER_HALF = 2**64 - 1
_REQUEST = b"POST /v1/payment_intents "


class _Connection(asyncio.Protocol):
    """Answers in the order of the requests: each is due so many seconds after it came."""

    _transport: asyncio.Transport

    def __init__(self, seconds: float, *, marking: bool) -> None:
        self._received = b""
        self._seconds = seconds
        self._marking = marking

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # what create_server makes

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(_END_OF_HEAD)) >= 0:
            head = self._received[:end]
            length = _LENGTH.search(head)
            body = end + len(_END_OF_HEAD)
            rest = body + (int(length[1]) if length else 0)
            if len(self._received) < rest:
                return
            answer = _answer(head, self._received[body:rest], marking=self._marking)
            self._received = self._received[rest:]
            asyncio.get_running_loop().call_later(self._seconds, self._transport.write, answer)


def _answer(head: bytes, body: bytes, *, marking: bool) -> bytes:
    if not head.startswith(_REQUEST):
        return _response(HTTPStatus.NOT_FOUND, {"error": {"message": "payment_intents, by POST"}})
    form = dict(parse_qsl(body.decode()))
    try:
        payment, amount, currency = (
            form[name] for name in ("metadata[payment_id]", "amount", "currency")
        )
        intent = _intent(payment, int(amount), currency)
        if marking:
            marks.leave(UUID(payment).int & _LOWER_HALF)
    except (KeyError, ValueError) as error:
        message = f"a form with amount, currency, metadata[payment_id]: {error!r}"
        return _response(HTTPStatus.BAD_REQUEST, {"error": {"message": message}})
    return _response(HTTPStatus.OK, intent)


def _intent(payment: str, amount: int, currency: str) -> dict[str, object]:
    return {
        "id": f"pi_{payment.replace('-', '')}",
        "object": "payment_intent",
        "status": "succeeded",
        "amount": amount,
        "amount_received": amount,
        "currency": currency,
        "metadata": {"payment_id": payment},
    }


def _response(status: HTTPStatus, content: dict[str, object]) -> bytes:
    body = orjson.dumps(content)
    return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        status.phrase.encode(),
        len(body),
        body,
    )


async def _serve(port: int, seconds: float, *, marking: bool) -> None:
    loop = asyncio.get_running_loop()
    connection = partial(_Connection, seconds, marking=marking)
    server = await loop.create_server(connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=ANSWER_SECONDS)
    parser.add_argument("--marks", action="store_true")
    options = parser.parse_args()
    uvloop.run(_serve(options.port, options.seconds, marking=options.marks))


if __name__ == "__main__":
    main()
