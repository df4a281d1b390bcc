"""Signed events, delivered at least once while the sandbox lives, to the one address it was given.

Source: https://docs.stripe.com/webhooks. Undelivered ones are not kept over a restart: who needs
certainty asks the gateway, as with the real one.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType
from typing import Self

import aiohttp
import orjson
import structlog

from ops.sandbox.calls import Call
from ops.sandbox.payments import new_id

API_VERSION = "2026-10-28.endive"
RETRY_AFTER = (1.0, 4.0, 16.0, 64.0)  # seconds; Stripe's sandbox retries a few times, hours apart
SENDERS = 4
KEPT = 10_000  # the newest events, for GET /v1/events/{id}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EventTarget:
    """Where signed events go, the webhook secret they are signed with, and which are wanted.

    Args:
        url: the endpoint.
        secret: starts with ``whsec_``.
        families: beginnings of the types it has asked for, as ``charge.dispute.``.
    """

    url: str
    secret: str
    families: tuple[str, ...] = ("",)


class Events:
    """A queue of events and the tasks that deliver it; an async context manager."""

    def __init__(self, target: EventTarget) -> None:
        self._url = target.url
        self._secret = target.secret.encode()
        self._families = target.families
        self._kept: OrderedDict[str, dict[str, object]] = OrderedDict()
        self._due: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self._senders: list[asyncio.Task[None]] = []
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        self._http = http
        self._senders = [asyncio.create_task(self._deliver_due(http)) for _ in range(SENDERS)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def announce(self, call: Call) -> None:
        """Queue the events that tell of a call."""
        for kind, thing in _told_by(call):
            self._queue(call, kind, thing)

    def _queue(self, call: Call, kind: str, thing: Mapping[str, object]) -> None:
        event: dict[str, object] = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": call.at // 1000,
            "data": {"object": thing},
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": call.key},
            "type": kind,
        }
        self._kept[str(event["id"])] = event
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        if kind.startswith(self._families):
            self._due.put_nowait(event)

    def find(self, event_id: str) -> dict[str, object] | None:
        """Return one of the newest events."""
        return self._kept.get(event_id)

    async def _deliver_due(self, http: aiohttp.ClientSession) -> None:
        while True:
            await self._deliver(http, await self._due.get())

    async def _deliver(self, http: aiohttp.ClientSession, event: dict[str, object]) -> None:
        payload = orjson.dumps(event)
        for pause in (*RETRY_AFTER, None):
            trouble = await self._post(http, payload)
            if trouble is None:
                return
            if pause is None:
                log.warning("event given up", id=event["id"], url=self._url, trouble=trouble)
                return
            await asyncio.sleep(pause)

    async def _post(self, http: aiohttp.ClientSession, payload: bytes) -> str | None:
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(payload, self._secret, int(time.time())),
        }
        try:
            async with http.post(self._url, data=payload, headers=headers) as answer:
                return None if answer.ok else f"answered {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:  # try again: nobody has taken it
            return repr(error)


def signature(payload: bytes, secret: bytes, timestamp: int) -> str:
    """Return the ``Stripe-Signature`` header of a payload sent at a Unix time."""
    digest = hmac.new(secret, f"{timestamp}.".encode() + payload, sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def _told_by(call: Call) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the kind of each event that a call gives rise to, and the object it is about."""
    if call.refund is not None:
        yield "refund.created", call.refund.as_stripe()
    elif call.intent is not None and call.charged:
        outcome = "succeeded" if call.intent.status == "succeeded" else "payment_failed"
        yield f"payment_intent.{outcome}", call.intent.as_stripe()
        if (dispute := call.intent.dispute()) is not None:
            yield "charge.dispute.created", dispute
    elif call.intent is not None and call.intent.status == "canceled":
        yield "payment_intent.canceled", call.intent.as_stripe()
