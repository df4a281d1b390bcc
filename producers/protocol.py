"""HTTP/1.1 with an end to everybody's patience: no slow, endless or broken sender holds a socket.

Uvicorn's protocol on httptools limits neither the time nor the size of a request's head. Bodies are
bounded where they are read (``producers.bodies``); here it is what comes before and after them.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from producers import problems
from producers.problems import MEDIA_TYPE, ProblemError, ProblemType

HEAD_SECONDS = 10.0
"""What a client may take to send a request's line and headers; and, once it was answered early, to
send the rest of a body that nobody reads."""

HEAD_BYTES = 32 * 1024
"""The most that line and headers may come to: ours are some hundred bytes, a token 330."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Uvicorn's own
        """See Uvicorn's protocol."""
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._in_message = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in Uvicorn
        """Expect the first request."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._met()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came, unless the head has become too large by it."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(problems.HEADERS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Expect the rest of a head that has begun."""
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._head_bytes = 0
        self._expect()

    def on_headers_complete(self) -> None:
        """Leave the time to who reads the body."""
        self._in_head = False
        self._met()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect nothing until the next request, which Uvicorn's keep-alive limits."""
        self._in_message = False
        self._met()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Expect the end of a body that was answered before it had ended."""
        super().on_response_complete()
        if self._in_message and not self._in_head:
            self._expect()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - Uvicorn's, which says no more
        """Refuse what is no HTTP."""
        self._refuse(problems.MALFORMED_REQUEST)

    def _expect(self) -> None:
        self._met()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _met(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if self._in_message and self._in_head:
            self._refuse(problems.REQUEST_TOO_SLOW)
        else:  # it has said nothing yet, or has its answer
            self.transport.close()

    def _refuse(self, kind: ProblemType) -> None:
        self._met()
        # Otherwise it would cut another answer.
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None before the first
            body = orjson.dumps(ProblemError(kind).document("/"))
            status = HTTPStatus(kind.status)
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {MEDIA_TYPE}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
