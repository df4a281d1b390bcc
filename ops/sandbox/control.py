"""What people and tests ask of the sandbox itself: what it has seen, and to misbehave."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ops.sandbox.book import Book
from ops.sandbox.clock import now_ms
from ops.sandbox.faults import Fault, Faults
from ops.sandbox.mail import Mailbox
from ops.sandbox.traffic import Traffic

LONGEST_SECONDS = 3600.0


class FaultOrder(BaseModel):
    """The body of ``POST /sandbox/faults``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    fault: Fault
    count: Annotated[int, Field(ge=1)] = 1
    seconds: Annotated[float | None, Field(ge=0, le=LONGEST_SECONDS)] = None


class Control:
    """The handlers under ``/sandbox``, and ``/healthz``."""

    def __init__(self, book: Book, mailbox: Mailbox, traffic: Traffic, faults: Faults) -> None:
        self._book = book
        self._mailbox = mailbox
        self._traffic = traffic
        self._faults = faults

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/healthz", self._health),
            web.get("/sandbox/charges", self._charges),
            web.get("/sandbox/refunds", self._refunds),
            web.get("/sandbox/calls", self._calls),
            web.get("/sandbox/mails", self._mails),
            web.get(r"/sandbox/mails/{number:\d+}", self._mail),
            web.get("/sandbox/faults", self._armed),
            web.post("/sandbox/faults", self._arm),
            web.delete("/sandbox/faults", self._disarm),
        ]

    async def _health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _charges(self, request: web.Request) -> web.Response:
        return _json({"data": self._book.charges(_first(request))})

    async def _refunds(self, request: web.Request) -> web.Response:
        return _json({"data": self._book.refunds(_first(request))})

    async def _calls(self, request: web.Request) -> web.Response:
        return _json({"data": self._traffic.visits(_first(request))})

    async def _mails(self, request: web.Request) -> web.Response:
        return _json({"data": self._mailbox.deliveries(_first(request))})

    async def _mail(self, request: web.Request) -> web.Response:
        message = self._mailbox.raw(int(request.match_info["number"]))
        if message is None:
            raise web.HTTPNotFound(text="There is no such mail; they are numbered from 0.\n")
        # As text, not as message/rfc822: a browser then shows it instead of saving a file.
        return web.Response(body=message, content_type="text/plain", charset="utf-8")

    async def _armed(self, _request: web.Request) -> web.Response:
        return _json({"data": self._faults.as_json()})

    async def _arm(self, request: web.Request) -> web.Response:
        try:
            order = FaultOrder.model_validate_json(await request.read())
        except ValidationError as error:
            return _unprocessable(error)
        if order.fault == "forget_keys":
            self._book.forget_keys(now_ms())
        else:
            self._faults.arm(order.fault, order.count, order.seconds)
        return _json({"data": self._faults.as_json()})

    async def _disarm(self, _request: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response(status=HTTPStatus.NO_CONTENT)


def _first(request: web.Request) -> int:
    """Return the number of entries the caller has already seen, from ``?after=``."""
    after = request.query.get("after", "0")
    if not after.isdecimal():
        raise web.HTTPBadRequest(text="?after= is the number of entries to leave out.\n")
    return int(after)


def _json(body: object) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _unprocessable(error: ValidationError) -> web.Response:
    problems = [
        {"pointer": "#/" + "/".join(map(str, problem["loc"])), "detail": problem["msg"]}
        for problem in error.errors()
    ]
    body = {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": HTTPStatus.UNPROCESSABLE_ENTITY,
        "detail": "; ".join(f"{problem['pointer']}: {problem['detail']}" for problem in problems),
        "errors": problems,
    }
    return web.Response(
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        body=orjson.dumps(body),
        content_type="application/problem+json",
    )
