"""What goes around every request: its id, its admission, its headers, its count, its last resort.

Pure ASGI: the framework's own middleware class copies every message of every stream.
"""

from __future__ import annotations

import re
import time
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from goodsyard.job import new_id
from producers.failures import problem_of
from producers.gate import admit
from producers.services import Services

VERSIONED = "/v1"
DOCS = "/docs"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_CLIENT_GONE = 499  # nginx's number for it: nobody is left to read a status

# Of a client's making, so only these become a label: each value is a series for ever.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_SECURITY: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
_NOTHING_RUNS: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
# Swagger UI starts by a script in its page; all it loads is served from here.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
_DOCS_RUN: Final = (b"content-security-policy", _DOCS_POLICY.encode())


class Envelope:
    """Wraps the application."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (or the lifespan, as it is)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        answer = _Answer(scope, send)
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=answer.request_id):
            try:
                if scope["path"].startswith(f"{VERSIONED}/"):
                    await admit(scope, services)
                await self._app(scope, receive, answer.send)
            except ClientDisconnect:
                answer.status = _CLIENT_GONE
            except Exception as error:
                if answer.begun:
                    raise  # the server cuts the connection, which tells the client
                problem = problem_of(error).response(scope["path"])
                await problem(scope, receive, answer.send)
        seconds = time.perf_counter() - started
        route = getattr(scope.get("route"), "path_format", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        services.metrics.observe(method, route, answer.status, seconds)


class _Answer:
    """Sends an answer with the headers that all have."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else new_id().hex
        self.begun = False
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send on, with more headers at the start."""
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._headers()]
        await self._send(message)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        path: str = self._scope["path"]
        headers = [
            *_SECURITY,
            _DOCS_RUN if path == DOCS else _NOTHING_RUNS,
            (b"x-request-id", self.request_id.encode()),
        ]
        if path.startswith(f"{VERSIONED}/"):
            headers.append((b"cache-control", b"no-store"))
        allowance = self._scope.get("state", {}).get("allowance")
        return headers if allowance is None else headers + allowance.headers
