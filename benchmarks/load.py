"""Sends requests over kept-alive connections, each the next as soon as its last is answered.

``python -m benchmarks.load FILE RESULT --port P --path /v1/orders --clients 64 --warm 500``: a
process of its own, whose requests are bytes before the clock starts, so that it costs little; what
it costs is in the result. FILE is JSON, a list of pairs: headers and body.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import resource
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, cast

import orjson
import uvloop

_END_OF_HEAD = b"\r\n\r\n"
_STATUS = slice(9, 12)  # of an answer's bytes
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answers(TypedDict):
    """What came back.

    ``rate`` is in requests/s, ``p50`` and ``p99`` are in ms from a request's first byte to its
    answer's last, ``cpu`` is the client's own in ms a request.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    statuses: dict[str, int]


class _Client(asyncio.Protocol):
    """One connection."""

    _transport: asyncio.WriteTransport

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = bytearray()
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one in all but its class.
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.cut_off(exc)

    def data_received(self, data: bytes) -> None:
        self._received += data
        body = self._received.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        if body < len(_END_OF_HEAD):
            return
        length = _LENGTH.search(self._received, 0, body)
        if len(self._received) < body + (int(length[1]) if length else 0):
            return
        status = self._received[_STATUS].decode()
        self._received.clear()
        self._load.answered(status, time.perf_counter() - self._sent)
        self.next()

    def next(self) -> None:
        request = next(self._load.requests, None)
        if request is None:
            self._load.idle()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)


class _Load:
    """Requests on their way, until the last is answered."""

    def __init__(self, port: int, clients: int) -> None:
        self._port = port
        self._wanted = clients
        self.requests: Iterator[bytes] = iter(())
        self._begin_anew()

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._clients = [
            (await loop.create_connection(lambda: _Client(self), "127.0.0.1", self._port))[1]
            for _ in range(self._wanted)
        ]

    async def send(self, requests: Iterator[bytes]) -> None:
        self._begin_anew()
        self.requests = requests
        for client in self._clients:
            client.next()
        await self._over

    def _begin_anew(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._idle = 0
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, status: str, seconds: float) -> None:
        self.statuses[status] += 1
        self.seconds.append(seconds)

    def idle(self) -> None:
        self._idle += 1
        if self._idle == len(self._clients) and not self._over.done():
            self._over.set_result(None)

    def cut_off(self, error: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(ConnectionError(f"the server hung up: {error}"))


async def _run(port: int, clients: int, requests: Sequence[bytes], warm: int) -> Answers:
    load = _Load(port, clients)
    await load.connect()
    each = iter(requests)
    await load.send(islice(each, warm))
    cpu, begin = _own_cpu(), time.perf_counter()
    await load.send(each)
    took, cpu = time.perf_counter() - begin, _own_cpu() - cpu
    percentiles = statistics.quantiles(load.seconds, n=100, method="inclusive")
    return {
        "rate": len(load.seconds) / took,
        "p50": percentiles[49] * 1e3,
        "p99": percentiles[98] * 1e3,
        "cpu": cpu / len(load.seconds) * 1e3,
        "statuses": dict(load.statuses),
    }


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _request(path: str, headers: dict[str, str], body: Any) -> bytes:  # noqa: ANN401 - any JSON
    content = orjson.dumps(body)
    named = {"Host": "127.0.0.1", **headers, "Content-Type": "application/json"}
    lines = [
        f"POST {path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in named.items()),
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join(lines).encode() + _END_OF_HEAD + content


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", type=Path)
    parser.add_argument("result", type=Path)
    for name in ("--port", "--clients", "--warm"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--path", required=True)
    options = parser.parse_args()
    pairs = orjson.loads(options.requests.read_bytes())
    requests = [_request(options.path, headers, body) for headers, body in pairs]
    answers = uvloop.run(_run(options.port, options.clients, requests, options.warm))
    options.result.write_bytes(orjson.dumps(answers))


if __name__ == "__main__":
    main()
