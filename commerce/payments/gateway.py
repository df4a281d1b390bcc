"""The payment gateway: Stripe's API, each call under a key of ours: a repeat charges nobody twice.

The ``stripe`` package knows the API; its HTTP goes over one pooled session of ours, at a fraction
of the CPU that its own asynchronous clients take a call. Its retries are off, since ours are rows,
and so is its telemetry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from itertools import count
from typing import NoReturn
from uuid import UUID

import aiohttp
import stripe
from pydantic import Field, HttpUrl, SecretStr

from commerce.payments.reconciliation import Period, Sight, Statement
from commerce.payments.replies import (
    CALLED_OFF,
    DECLINED_STATUSES,
    FALLEN_THROUGH,
    GIVEN_BACK,
    OVER,
    Found,
    Page,
    Reply,
    charge_of,
    given_back,
    is_of,
    refund_of,
    standing,
    why_not,
)
from commerce.payments.rules import (
    Captured,
    Declined,
    GatewayAnswer,
    Unclear,
    cancel_key,
    charge_key,
    refund_key,
)
from goodsyard.settings import Settings

CALL_SECONDS = 15.0
"""The most one call may take, connecting included; under the engine's own limit."""

LOOKUP_PAGES = 20
"""Pages of 100 PaymentIntents read, newest first, where a gateway can't search."""

stripe.enable_telemetry = False


class GatewaySettings(Settings):
    """Where the payment gateway is and who we are to it."""

    gateway_url: HttpUrl = Field(
        description="Base address of the gateway's API.", examples=["https://api.stripe.com"]
    )
    gateway_key: SecretStr = Field(
        description="The gateway's secret key.", examples=["sk_live_…"], min_length=8
    )


class _PooledHttp(stripe.HTTPClient):
    """The stripe package's transport, over one session that opens at its first use."""

    name = "aiohttp"

    def __init__(self) -> None:
        super().__init__()
        self._session: aiohttp.ClientSession | None = None

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No limit here: the engine bounds the calls that are out, and waiting for a
                # connection would count as the gateway's silence.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=CALL_SECONDS, connect=5),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.request(
                method, url, headers=headers, data=post_data
            ) as response:
                return await response.read(), response.status, response.headers
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            message = f"no answer from the gateway: {type(error).__name__}: {error}"
            raise stripe.APIConnectionError(message) from error  # type: ignore[no-untyped-call]  # theirs

    async def sleep_async(self, secs: float) -> NoReturn:
        message = f"retries are rows, nobody sleeps {secs} s here"
        raise AssertionError(message)

    async def close_async(self) -> None:
        if self._session is not None:
            await self._session.close()


class Gateway:
    """Charges and refunds; belongs to one event loop, connects at its first call."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Use the gateway that the settings name."""
        self._http = _PooledHttp()
        self._client = stripe.StripeClient(
            settings.gateway_key.get_secret_value(),
            base_addresses={"api": str(settings.gateway_url).rstrip("/")},
            http_client=self._http,
            max_network_retries=0,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()

    async def charge(
        self, payment_id: UUID, amount: int, currency: str, payment_method: str
    ) -> GatewayAnswer:
        """Create, confirm and capture one PaymentIntent for the payment, however often it's called.

        Args:
            payment_id: our payment; the key derives from it.
            amount: minor units.
            currency: an ISO 4217 code.
            payment_method: the gateway's name for the card.
        """
        answer = await _answer(self._charge(payment_id, amount, currency, payment_method))
        if isinstance(answer, Unclear) and answer.stored:
            # The gateway will repeat this error for as long as it remembers the key, whatever
            # became of the charge. A new key could charge twice; looking can't.
            return await self.find_charge(payment_id) or answer
        return answer

    async def find_charge(self, payment_id: UUID) -> GatewayAnswer | None:
        """Look a charge up by our payment's id, without any key; ``None`` if there is no trace.

        Stripe's search lags by about a minute ("Search", docs.stripe.com): absence proves nothing
        about a charge just sent.
        """
        try:
            found = [i for i in await self._search(payment_id) if is_of(i, payment_id)]
        except stripe.StripeError as error:
            # A look-up that fails says nothing about the charge, least of all that it was declined.
            return Unclear(f"the look-up failed: {type(error).__name__}: {error}")
        captured = [intent for intent in found if intent.status == "succeeded"]
        if captured:
            return Captured(captured[0].id)
        for intent in found:
            if intent.status not in DECLINED_STATUSES:
                return Unclear(f"the gateway says {intent.status}")
            if intent.status not in OVER:
                # Left by a run that died before it could call it off.
                answer = await _answer(self._call_off(payment_id, intent))
                if not isinstance(answer, Declined):
                    return answer
        return Declined(why_not(found[0]), found[0].id) if found else None

    async def find_refund(self, refund_id: UUID, gateway_id: str) -> GatewayAnswer | None:
        """Look a refund up by our id among those of its charge; ``None`` if there is no trace."""
        try:
            listed = await self._newest("/v1/refunds", payment_intent=gateway_id)
        except stripe.StripeError as error:
            return Unclear(f"the look-up failed: {type(error).__name__}: {error}")
        found = [r for r in listed if r.metadata.get("refund_id") == str(refund_id)]
        return given_back(found[0]) if found else None

    async def look(self, gateway_id: str) -> Sight:
        """Return how a charge stands at the gateway now, with its refunds and disputes.

        Raises:
            stripe.StripeError: the gateway can't be read now, or has no such charge.
        """
        reply = await self._client.raw_request_async("get", f"/v1/payment_intents/{gateway_id}")
        intent = Found.model_validate(reply.data)
        refunds = await self._newest("/v1/refunds", payment_intent=gateway_id)
        disputes = await self._disputes(gateway_id)
        return Sight(
            answer=standing(intent),
            charge=charge_of(intent),
            refunds=[refund_of(refund) for refund in refunds if refund.status in GIVEN_BACK],
            fallen_through=[
                refund_of(refund) for refund in refunds if refund.status in FALLEN_THROUGH
            ],
            dispute="; ".join(f"{d.status}: {d.reason} ({d.id})" for d in disputes) or None,
        )

    async def statement(
        self, period: Period, on_page: Callable[[float], None] = lambda _: None
    ) -> Statement:
        """Return all that the gateway captured and gave back in the period or its margins.

        Args:
            period: when.
            on_page: is told after each page how much has been read, from 0 to 1. What it raises
                ends the reading.

        Raises:
            stripe.StripeError: the gateway can't be read now.
        """
        since = period.since - Period.MARGIN
        intents = await self._newest(
            "/v1/payment_intents", until=since, on_page=lambda read: on_page(read / 2)
        )
        refunds = await self._newest(
            "/v1/refunds", until=since, on_page=lambda read: on_page(0.5 + read / 2)
        )
        return Statement(
            charges=[charge_of(intent) for intent in intents if intent.status == "succeeded"],
            refunds=[refund_of(refund) for refund in refunds if refund.status in GIVEN_BACK],
        )

    async def _disputes(self, gateway_id: str) -> list[Found]:
        try:
            return await self._newest("/v1/disputes", payment_intent=gateway_id)
        except stripe.StripeError as error:
            if error.http_status != HTTPStatus.NOT_FOUND:
                raise
            return []  # not every gateway that speaks this protocol has them

    async def _search(self, payment_id: UUID) -> list[Found]:
        query = f"metadata['payment_id']:'{payment_id}'"
        try:
            return (await self._get("/v1/payment_intents/search", query=query)).data
        except stripe.InvalidRequestError:
            # Not every gateway that speaks this protocol can search.
            return await self._newest("/v1/payment_intents", pages=LOOKUP_PAGES)

    async def _newest(
        self,
        path: str,
        *,
        until: datetime | None = None,
        pages: int | None = None,
        on_page: Callable[[float], None] = lambda _: None,
        **parameters: object,
    ) -> list[Found]:
        """Return what a list holds, newest first, back to a time or over a number of pages."""
        found: list[Found] = []
        for _ in count() if pages is None else range(pages):
            after = {"starting_after": found[-1].id} if found else {}
            page = await self._get(path, limit=100, **parameters, **after)
            found += page.data
            if not page.has_more or (until and found[-1].created < until.timestamp()):
                on_page(1.0)
                break
            if until:
                newest, oldest = found[0].created, found[-1].created
                on_page((newest - oldest) / max(newest - until.timestamp(), 1))
        return found

    async def _get(self, path: str, **parameters: object) -> Page:
        return Page.model_validate(
            (await self._client.raw_request_async("get", path, **parameters)).data
        )

    async def _charge(
        self, payment_id: UUID, amount: int, currency: str, payment_method: str
    ) -> GatewayAnswer:
        intent = await self._post(
            "/v1/payment_intents",
            charge_key(payment_id),
            amount=amount,
            currency=currency.lower(),
            payment_method=payment_method,
            automatic_payment_methods={"enabled": True, "allow_redirects": "never"},
            confirm=True,
            off_session=True,
            metadata={"payment_id": str(payment_id)},
        )
        if intent.status == "succeeded":
            return Captured(intent.id)
        if intent.status not in DECLINED_STATUSES:
            return Unclear(f"the gateway says {intent.status}")
        if intent.status not in OVER:
            return await self._call_off(payment_id, intent)
        return Declined(DECLINED_STATUSES[intent.status], intent.id)

    async def _call_off(self, payment_id: UUID, intent: Reply) -> GatewayAnswer:
        """Cancel what nobody is there to confirm: it must not be charged one day."""
        address = f"/v1/payment_intents/{intent.id}"
        try:
            await self._post(
                f"{address}/cancel", cancel_key(payment_id), cancellation_reason=CALLED_OFF
            )
        except stripe.InvalidRequestError as error:
            if error.http_status != HTTPStatus.BAD_REQUEST:
                raise
            # Refused where it has been cancelled already or is past it ("Cancel a PaymentIntent",
            # docs.stripe.com/api): no verdict on the charge, which may have succeeded meanwhile.
            reply = await self._client.raw_request_async("get", address)
            status = Reply.model_validate(reply.data).status
            if status == "succeeded":
                return Captured(intent.id)
            if status != "canceled":
                return Unclear(f"the gateway says {status}, and that it can't be cancelled")
        return Declined(DECLINED_STATUSES[intent.status], intent.id)

    async def refund(self, refund_id: UUID, gateway_id: str, amount: int) -> GatewayAnswer:
        """Give ``amount`` minor units of a charge back, once, however often it's called."""
        answer = await _answer(self._refund(refund_id, gateway_id, amount))
        if isinstance(answer, Unclear) and answer.stored:
            return await self.find_refund(refund_id, gateway_id) or answer  # as with a charge
        return answer

    async def _refund(self, refund_id: UUID, gateway_id: str, amount: int) -> GatewayAnswer:
        refund = await self._post(
            "/v1/refunds",
            refund_key(refund_id),
            payment_intent=gateway_id,
            amount=amount,
            metadata={"refund_id": str(refund_id)},
        )
        return given_back(refund)

    async def _post(self, path: str, key: str, **parameters: object) -> Reply:
        # The package's raw request signs, encodes, and raises what its typed methods would, but
        # doesn't build an object for each of an intent's fifty fields: 40 % of a call's time.
        response = await self._client.raw_request_async(
            "post", path, idempotency_key=key, **parameters
        )
        return Reply.model_validate(response.data)


async def _answer(call: Awaitable[GatewayAnswer]) -> GatewayAnswer:
    """Turn the stripe package's exceptions into answers.

    Only what the provider documents as a decline is one; everything that may have happened stays
    unclear. See Stripe's pages "Error handling" and "Idempotent requests".
    """
    try:
        return await call
    except stripe.CardError as error:
        return Declined(_decline_code(error), _intent_of(error))
    except stripe.InvalidRequestError as error:
        # A conflict (our earlier call is still running), a wrong address and the like are no
        # verdict on the card.
        if error.http_status == HTTPStatus.BAD_REQUEST:
            return Declined(error.code or "invalid_request")
        return _unclear(error)
    except stripe.StripeError as error:
        return _unclear(error)


def _unclear(error: stripe.StripeError) -> Unclear:
    waits = _header(error, "Retry-After")
    return Unclear(
        f"{type(error).__name__}: {error}",
        after=float(waits) if waits and waits.isdigit() else None,
        busy=error.http_status == HTTPStatus.TOO_MANY_REQUESTS,
        stored=_header(error, "Idempotent-Replayed") == "true",
    )


def _decline_code(error: stripe.CardError) -> str:
    details = error.error
    return str((details and details.decline_code) or error.code or "card_declined")


def _intent_of(error: stripe.CardError) -> str | None:
    intent = error.error.payment_intent if error.error else None
    return intent.id if intent else None


def _header(error: stripe.StripeError, name: str) -> str | None:
    headers = error.headers or {}
    return headers.get(name) or headers.get(name.lower())
