"""The Stripe subset over HTTP: every call that moves money takes effect once for each key.

``POST /v1/payment_intents``, ``GET`` of one, of the list and of a search, ``POST …/cancel``,
``POST`` and ``GET`` of ``/v1/refunds``, ``GET /v1/disputes`` of an intent, and
``GET /v1/events/{id}`` where events are sent.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus

import orjson
from aiohttp import web

from ops.sandbox import form
from ops.sandbox.book import Book
from ops.sandbox.calls import Call
from ops.sandbox.clock import now_ms
from ops.sandbox.errors import (
    GatewayError,
    invalid,
    key_in_use,
    missing_resource,
    rate_limited,
    server_error,
    unauthenticated,
    unknown_address,
)
from ops.sandbox.events import Events
from ops.sandbox.faults import Faults
from ops.sandbox.keys import fingerprint
from ops.sandbox.objects import PaymentIntent, Refund
from ops.sandbox.payments import Payments, Request, new_id
from ops.sandbox.traffic import Traffic

MAX_PAGE = 100  # https://docs.stripe.com/api/pagination
DEFAULT_PAGE = 10

_METADATA_QUERY = re.compile(r"metadata\[['\"](?P<key>[^'\"]+)['\"]\]:['\"](?P<value>[^'\"]*)['\"]")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Effect = Callable[[Request], Call]


class ConnectionDropped(Exception):  # noqa: N818 - what happens to the caller, not a mistake
    """A fault takes the caller's connection away instead of an answer."""


class Gateway:
    """The handlers under ``/v1``."""

    def __init__(self, book: Book, faults: Faults, traffic: Traffic, events: Events | None) -> None:
        self._book = book
        self._faults = faults
        self._traffic = traffic
        self._events = events
        self._payments = Payments(book, faults)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, the refusal of anything else last."""
        return [
            web.post("/v1/payment_intents", _answering(self._create_intent)),
            web.get("/v1/payment_intents", _answering(self._list_intents), allow_head=False),
            web.get("/v1/payment_intents/search", _answering(self._search), allow_head=False),
            web.get("/v1/payment_intents/{id}", _answering(self._get_intent), allow_head=False),
            web.post("/v1/payment_intents/{id}/cancel", _answering(self._cancel_intent)),
            web.post("/v1/refunds", _answering(self._create_refund)),
            web.get("/v1/refunds", _answering(self._list_refunds), allow_head=False),
            web.get("/v1/refunds/{id}", _answering(self._get_refund), allow_head=False),
            web.get("/v1/disputes", _answering(self._list_disputes), allow_head=False),
            web.get("/v1/events/{id}", _answering(self._get_event), allow_head=False),
            web.route("*", "/v1/{rest:.*}", _answering(_refuse_address)),
        ]

    async def _create_intent(self, request: web.Request) -> web.Response:
        return await self._once(request, self._payments.create)

    async def _cancel_intent(self, request: web.Request) -> web.Response:
        intent_id = request.match_info["id"]
        return await self._once(request, lambda call: self._payments.cancel(call, intent_id))

    async def _create_refund(self, request: web.Request) -> web.Response:
        return await self._once(request, self._payments.refund)

    async def _once(self, request: web.Request, effect: Effect) -> web.Response:
        """Let a call take effect, or tell it what the first call with its key was told."""
        at = now_ms()
        key = request.headers.get("Idempotency-Key")
        with self._traffic.visit(request.path, key, at) as visit:
            answer = await self._once_a_key(request, key, at, effect)
            visit.status = answer.status
            return answer

    async def _once_a_key(
        self, request: web.Request, key: str | None, at: int, effect: Effect
    ) -> web.Response:
        _authenticate(request)
        self._refuse_early(key)
        pairs = form.pairs_of(await request.read())
        call = Request(at, key, fingerprint(request.path, pairs), form.parse(pairs))
        if key is None:
            return _answer(await self._take_effect(call, effect))
        remembered = self._book.keys.begin(key, call.fingerprint, at)
        if remembered is not None:
            return _answer(remembered, replayed=True)
        try:
            return _answer(await self._take_effect(call, effect))
        finally:
            self._book.keys.release(key)

    def _refuse_early(self, key: str | None) -> None:
        if self._faults.take("409") is not None:
            raise key_in_use(key or "")
        if (seconds := self._faults.take("429")) is not None:
            raise rate_limited(retry_after=max(1, round(seconds)))
        if self._faults.take("500") is not None:
            raise server_error()

    async def _take_effect(self, request: Request, effect: Effect) -> Call:
        await self._dawdle()
        breaks = self._faults.take("stored_500") is not None
        call = request.failed() if breaks else effect(request)
        if call.moved_money and self._faults.take("charge_then_500") is not None:
            call = replace(call, status=HTTPStatus.INTERNAL_SERVER_ERROR)
        self._book.record(call)
        if self._events is not None:
            self._events.announce(call)
        if call.moved_money and self._faults.take("charge_then_drop") is not None:
            raise ConnectionDropped
        return call

    async def _dawdle(self) -> None:
        if (seconds := self._faults.take("latency")) is not None:
            await asyncio.sleep(seconds)
        if (seconds := self._faults.take("hang")) is not None:
            await asyncio.sleep(seconds)
            raise ConnectionDropped

    async def _get_intent(self, request: web.Request) -> web.Response:
        _authenticate(request)
        intent = self._payments.find_intent(request.match_info["id"])
        return _json(HTTPStatus.OK, intent.as_stripe())

    async def _list_intents(self, request: web.Request) -> web.Response:
        _authenticate(request)
        fields = form.parse(list(request.query.items()))
        form.refuse_unknown(fields, {"limit", "starting_after"})
        start, limit = form.text(fields, "starting_after"), _limit(fields)
        after = self._payments.find_intent(start) if start else None
        return _page(request, limit, self._book.newest_intents(after=after, limit=limit + 1))

    async def _list_refunds(self, request: web.Request) -> web.Response:
        _authenticate(request)
        fields = form.parse(list(request.query.items()))
        form.refuse_unknown(fields, {"limit", "payment_intent", "starting_after"})
        start, limit = form.text(fields, "starting_after"), _limit(fields)
        found = self._book.newest_refunds(
            of_intent=form.text(fields, "payment_intent"),
            after=self._find_refund(start) if start else None,
            limit=limit + 1,
        )
        return _page(request, limit, found)

    async def _list_disputes(self, request: web.Request) -> web.Response:
        """List the disputes of one intent: it has one at the most."""
        _authenticate(request)
        fields = form.parse(list(request.query.items()))
        form.refuse_unknown(fields, {"limit", "payment_intent"})
        intent = self._payments.find_intent(form.required(fields, "payment_intent"))
        dispute = intent.dispute()
        page = {
            "object": "list",
            "url": request.path,
            "has_more": False,
            "data": [dispute] if dispute else [],
        }
        return _json(HTTPStatus.OK, page)

    async def _search(self, request: web.Request) -> web.Response:
        """Find intents by one entry of their metadata; the rest of Stripe's language is refused."""
        _authenticate(request)
        query = _METADATA_QUERY.fullmatch(request.query.get("query", ""))
        if query is None:
            raise invalid(
                "The sandbox searches by metadata['KEY']:'VALUE' only.",
                code="parameter_invalid",
                param="query",
            )
        found = self._book.intents_with(query["key"], query["value"])
        page = {
            "object": "search_result",
            "url": "/v1/payment_intents/search",
            "has_more": False,
            "data": [intent.as_stripe() for intent in found],
        }
        return _json(HTTPStatus.OK, page)

    async def _get_refund(self, request: web.Request) -> web.Response:
        _authenticate(request)
        return _json(HTTPStatus.OK, self._find_refund(request.match_info["id"]).as_stripe())

    def _find_refund(self, refund_id: str) -> Refund:
        refund = self._book.refund(refund_id)
        if refund is None:
            raise missing_resource("refund", refund_id, param="id")
        return refund

    async def _get_event(self, request: web.Request) -> web.Response:
        _authenticate(request)
        event_id = request.match_info["id"]
        event = self._events.find(event_id) if self._events is not None else None
        if event is None:
            raise missing_resource("event", event_id, param="id")
        return _json(HTTPStatus.OK, event)


def _answering(handler: Handler) -> Handler:
    """Give refusals the shape Stripe's clients read, and let a dropped connection drop."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except GatewayError as refusal:
            return _json(refusal.status, refusal.body, refusal.headers)
        except ConnectionDropped:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # written to nobody

    return answer


async def _refuse_address(request: web.Request) -> web.Response:
    _authenticate(request)
    raise unknown_address(request.method, request.path)


def _authenticate(request: web.Request) -> None:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    given = credentials.strip()
    if scheme.lower() == "basic":
        given = _user_of(given)
    elif scheme.lower() != "bearer":
        given = ""
    if not given:
        raise unauthenticated()


def _user_of(basic: str) -> str:
    try:
        return b64decode(basic).decode("utf-8").partition(":")[0]
    except ValueError:
        return ""


def _limit(fields: form.Form) -> int:
    asked = form.text(fields, "limit")
    return form.integer(asked, "limit", least=1, most=MAX_PAGE) if asked else DEFAULT_PAGE


def _page(
    request: web.Request, limit: int, found: Sequence[PaymentIntent | Refund]
) -> web.Response:
    """Answer with a page of a list, of which one entry more than fits was looked for."""
    page = {
        "object": "list",
        "url": request.path,
        "has_more": len(found) > limit,
        "data": [entry.as_stripe() for entry in found[:limit]],
    }
    return _json(HTTPStatus.OK, page)


def _answer(call: Call, *, replayed: bool = False) -> web.Response:
    headers = {"Idempotency-Key": call.key} if call.key is not None else {}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return _json(call.status, call.body(), headers)


def _json(
    status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(body),
        content_type="application/json",
        headers={"Request-Id": new_id("req"), **(headers or {})},
    )
