"""The gateway's events: signed or refused, taken in once, and believed in nothing but the hint."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from commerce.payments import inbox
from goodsyard.submit import Staged, stage
from ops.sandbox.events import signature
from producers.app import create_app
from producers.settings import ApiSettings
from tasks.contracts import ChargePayment, ReconcilePayments, RefreshPayment
from tests.integration.conftest import Api
from tests.integration.till import Document, Till, open_till
from tests.saga import VISA, Booking, Sandbox

pytestmark = pytest.mark.in_process("opens further connections to the application itself")

SECRET, OLD_SECRET, GUESSED = "whsec_of_the_test", "whsec_that_goes", "whsec_guessed"
CAPTURE = Booking("gateway", "sales", 1_499, "capture")
BY_HAND = {"Authorization": "Bearer sk_test_by_hand"}
_numbers = count(1)


@pytest.fixture
def api_settings(database_url: str, redis_url: str) -> ApiSettings:
    """Two secrets, as while one is being replaced."""
    return ApiSettings.model_validate(
        {
            "database_url": database_url,
            "redis_url": redis_url,
            "secret_key": "the tests alone sign with this key",
            "gateway_webhook_secret": f"{SECRET}, {OLD_SECRET}",
        }
    )


@pytest.fixture
async def till(api: Api, redis_url: str, sandbox: Sandbox) -> AsyncIterator[Till]:
    async with open_till(api, redis_url, sandbox) as opened:
        yield opened


def event(kind: str, about: Document, name: str | None = None) -> bytes:
    """Return an event as the gateway writes it; what it says of the object may be wrong."""
    told = {"id": name or f"evt_{next(_numbers)}", "type": kind, "data": {"object": about}}
    return json.dumps({"object": "event", **told}).encode()


async def send(
    till: Till, body: bytes, *, secret: str = SECRET, at: float = 0, header: str | None = None
) -> httpx.Response:
    """Deliver an event, signed ``at`` seconds from now; no API key comes along."""
    if header is None:
        header = signature(body, secret.encode(), int(time.time() + at))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(till.api.app), base_url="http://api.test"
    ) as gateway:
        return await gateway.post(
            "/v1/gateway/events", content=body, headers={"Stripe-Signature": header}
        )


async def told(till: Till, kind: str, about: Document) -> None:
    """Deliver an event and let what comes of it run."""
    answer = await send(till, event(kind, about))
    assert (answer.status_code, answer.json()) == (200, {"received": True}), answer.text
    await till.saga.finish()


async def intent_of(till: Till, payment: Document) -> Document:
    answer = await till.saga.http.get(
        f"/v1/payment_intents/{payment['gateway_id']}", headers=BY_HAND
    )
    found: Document = answer.json()
    return found


async def refund_by_hand(till: Till, payment: Document, amount: int) -> Document:
    """Give money back in the provider's own dashboard."""
    answer = await till.saga.http.post(
        "/v1/refunds",
        data={"payment_intent": payment["gateway_id"], "amount": str(amount)},
        headers=BY_HAND,
    )
    assert answer.is_success, answer.text
    refund: Document = answer.json()
    return refund


async def asked(till: Till) -> int:
    """Return how often the gateway is being asked, or was."""
    ((jobs,),) = await till.saga.yard.sql(
        "SELECT (SELECT count(*) FROM goodsyard.job WHERE kind = :kind)"
        " + (SELECT count(*) FROM goodsyard.job_done WHERE kind = :kind)",
        kind=RefreshPayment.kind,
    )
    return int(jobs)


async def test_only_what_the_gateway_signed_within_five_minutes_is_taken_in(till: Till) -> None:
    body = event("refund.created", await refund_by_hand(till, await till.charged(), 1))
    good = signature(body, SECRET.encode(), int(time.time()))
    for answer in (
        await send(till, body, secret=GUESSED),
        await send(till, body, at=-302),
        await send(till, body, at=+302),
        await send(till, body + b" ", header=good),
        await send(till, body, header=good.replace("v1=", "v0=")),
        await send(till, body, header=""),
        await send(till, body, header="t=now,v1=00"),
        await send(till, b"\xff", secret=SECRET),
    ):
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-signature")
    assert (await asked(till), await till.saga.yard.sql("SELECT id FROM commerce.inbox")) == (0, [])
    for answer in (
        await send(till, body),
        await send(till, body, secret=OLD_SECRET),
        await send(till, body, at=-290),
        await send(till, body, at=+290),
    ):
        assert answer.status_code == 200, answer.text
    assert await asked(till) == len(await till.saga.yard.sql("SELECT id FROM commerce.inbox")) == 1


async def test_who_guesses_signatures_is_slowed_down_and_the_gateway_is_not(till: Till) -> None:
    body = event("payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent"})
    answers = [await send(till, body, secret=GUESSED) for _ in range(61)]
    assert [answer.status_code for answer in answers] == [400] * 60 + [429]
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert (await send(till, body)).status_code == 200


async def test_a_body_of_any_size_or_packing_is_refused_unread(till: Till) -> None:
    assert (await send(till, b" " * (256 * 1024 + 1))).status_code == 413
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(till.api.app), base_url="http://api.test"
    ) as gateway:
        packed = await gateway.post(
            "/v1/gateway/events", content=b"x", headers={"Content-Encoding": "gzip"}
        )
    assert packed.status_code == 415


async def test_an_api_without_a_secret_believes_nobody(till: Till) -> None:
    settings = ApiSettings.model_validate(
        {
            "database_url": till.api.sessions.kw["bind"].url.render_as_string(hide_password=False),
            "redis_url": "redis://127.0.0.1:1/0",
            "secret_key": SecretStr("the tests alone sign with this key"),
            "gateway_webhook_secret": None,
        }
    )
    app = create_app(settings)
    body = event("payment_intent.succeeded", {"id": "pi_1"})
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://api.test"
        ) as gateway,
    ):
        header = {"Stripe-Signature": signature(body, b"", int(time.time()))}
        answer = await gateway.post("/v1/gateway/events", content=body, headers=header)
    assert answer.status_code == 400


async def test_what_is_none_of_our_business_is_taken_and_left(till: Till) -> None:
    for kind, about in (
        ("customer.created", {"id": "cus_1", "object": "customer"}),
        ("payment_intent.succeeded", {"id": "pi_unknown", "object": "payment_intent"}),
        ("payment_intent.succeeded", {"id": "pi", "metadata": {"payment_id": "no uuid"}}),
        ("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": None}),
    ):
        assert (await send(till, event(kind, about))).status_code == 200
    for body in (b"[]", b"{}", b'{"id": "", "type": 5}', b"not JSON"):
        assert (await send(till, body)).status_code == 200, body
    assert await asked(till) == 0


async def test_an_event_of_what_our_books_have_asks_nobody(till: Till) -> None:
    payment = await till.charged()
    await told(till, "payment_intent.succeeded", await intent_of(till, payment))
    pending = await till.post("/v1/payments", till.bill())
    about = {"id": "pi", "object": "payment_intent", "metadata": {"payment_id": ""}}
    about["metadata"] = {"payment_id": pending.json()["payment"]["id"]}
    answer = await send(till, event("payment_intent.succeeded", about))
    assert answer.status_code == 200
    assert await asked(till) == 0, "its own job is on its way and will hear it"


async def test_a_refund_made_at_the_gateway_is_booked_once_however_often_it_is_told(
    till: Till,
) -> None:
    payment = await till.charged()
    refund = await refund_by_hand(till, payment, 500)
    body = event("refund.created", refund)
    answers = await asyncio.gather(*(send(till, body) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert await asked(till) == 1
    for kind in ("charge.refunded", "refund.updated", "refund.created"):
        await told(till, kind, refund)
    now = await till.get(payment["href"])
    assert (now["amount_refunded"]["amount"], now["status"]) == (500, "succeeded")
    assert await till.saga.ledger() == [CAPTURE, Booking("sales", "gateway", 500, "refund")]
    left = await till.post(f"{payment['href']}/refund", {"amount": 1_000})
    assert "999 can still be refunded" in left.json()["detail"]


async def test_an_order_hears_of_a_refund_made_at_the_gateway(till: Till) -> None:
    await till.saga.put_in_stock(CD=5)
    order = await till.saga.order()
    await till.saga.finish()
    (payment,) = (await till.get(f"/v1/payments?order_id={order}"))["data"]
    await told(till, "refund.created", await refund_by_hand(till, payment, 1_499))
    assert await till.saga.status(order) == "refunded"


async def test_a_refund_of_ours_that_is_told_before_it_is_settled_is_booked_once(
    till: Till,
) -> None:
    payment = await till.charged()
    await till.saga.fault("charge_then_drop")
    await till.post(f"{payment['href']}/refund", {"amount": 500})
    await till.saga.deliver("payments.refund")  # it happened, and nobody heard of it
    await told(till, "refund.created", {"id": "re", "payment_intent": payment["gateway_id"]})
    await till.saga.hurry()
    await till.saga.finish()
    assert await till.saga.ledger() == [CAPTURE, Booking("sales", "gateway", 500, "refund")]
    assert len(await till.saga.refunds()) == 1


async def _lost_charge(till: Till, **fields: object) -> tuple[Document, Document]:
    """Charge without hearing of it, until the job has given up; return payment and intent."""
    answer = await till.post("/v1/payments", till.bill(**fields))
    payment = answer.json()["payment"]
    await till.saga.fault("charge_then_drop")
    await till.saga.deliver(ChargePayment.kind)
    await till.saga.yard.sql("UPDATE goodsyard.job SET state = 'dead', reason = 'attempts'")
    found = await till.saga.http.get(
        "/v1/payment_intents/search",
        params={"query": f"metadata['payment_id']:'{payment['id']}'"},
        headers=BY_HAND,
    )
    (intent,) = found.json()["data"]
    return payment, intent


@pytest.mark.parametrize(
    ("card", "kind", "status"),
    [
        (VISA, "payment_intent.succeeded", "succeeded"),
        ("pm_card_chargeDeclined", "payment_intent.payment_failed", "failed"),
    ],
)
async def test_a_charge_that_was_given_up_is_settled_by_what_the_gateway_says(
    till: Till, card: str, kind: str, status: str
) -> None:
    payment, intent = await _lost_charge(till, payment_method=card)
    await told(till, kind, intent)
    assert (await till.get(payment["href"]))["status"] == status
    assert await till.saga.ledger() == ([CAPTURE] if status == "succeeded" else [])
    await till.saga.yard.sql("UPDATE goodsyard.job SET state = 'waiting', reason = NULL")
    await till.saga.hurry()
    await till.saga.finish()  # a person lets the dead job run again, too
    assert await till.saga.ledger() == ([CAPTURE] if status == "succeeded" else [])
    assert await till.saga.live_jobs() == []


async def test_what_an_event_says_is_not_what_is_booked(till: Till) -> None:
    payment, intent = await _lost_charge(till, payment_method="pm_card_chargeDeclined")
    lie = {**intent, "status": "succeeded", "amount": 1_000_000, "amount_received": 1_000_000}
    await told(till, "payment_intent.succeeded", lie)
    assert (await till.get(payment["href"]))["status"] == "failed"
    assert await till.saga.ledger() == []


async def test_another_charge_under_our_payments_name_is_left_to_a_person(till: Till) -> None:
    payment, _ = await _lost_charge(till)
    answer = await till.saga.http.post(
        "/v1/payment_intents",
        data={
            "amount": "1",
            "currency": "eur",
            "payment_method": VISA,
            "confirm": "true",
            "metadata[payment_id]": payment["id"],
        },
        headers=BY_HAND,
    )
    await told(till, "payment_intent.succeeded", answer.json())
    assert (await till.get(payment["href"]))["status"] == "pending"
    assert (RefreshPayment.kind, "dead") in await till.saga.live_jobs()
    assert await till.saga.ledger() == []


async def test_a_dispute_is_noted_for_a_person(till: Till) -> None:
    payment = await till.charged(payment_method="pm_card_createDispute")
    assert payment["dispute"] is None
    dispute: dict[str, Any] = {"id": "dp_1", "object": "dispute"}
    await told(till, "charge.dispute.created", {**dispute, "payment_intent": payment["gateway_id"]})
    noted = (await till.get(payment["href"]))["dispute"]
    assert noted.startswith("needs_response: fraudulent (dp_")
    assert await till.saga.ledger() == [CAPTURE], "what becomes of the money is not known yet"


async def test_an_inbox_empties_itself_of_what_no_one_delivers_any_more(till: Till) -> None:
    await till.saga.yard.sql(
        "INSERT INTO commerce.inbox SELECT 'evt_old_' || n, 'x', now() - n * interval '1 day'"
        " FROM generate_series(1, 60) AS n"
    )
    payment = await till.charged()
    refund = await refund_by_hand(till, payment, 1)
    for _ in range(3):
        await send(till, event("refund.created", refund))
    ((oldest, rows),) = await till.saga.yard.sql(
        "SELECT max(now() - received_at) < interval '41 days', count(*) FROM commerce.inbox"
    )
    assert (oldest, rows) == (True, 42)


async def test_the_payment_of_an_event_is_found_by_index(till: Till) -> None:
    await till.saga.yard.sql(
        "INSERT INTO commerce.payment (tenant, user_id, amount, currency, payment_method, state,"
        " gateway_id) SELECT :t, :user, 1, 'EUR', 'pm', 'failed', 'pi_' || n"
        " FROM generate_series(1, 20000) AS n",
        t=till.saga.tenant,
        user=till.saga.user,
    )
    await till.saga.yard.sql("ANALYZE commerce.payment")
    query = inbox._ABOUT.text.replace(":charge", "'pi_7'").replace(":payment", f"'{UUID(int=7)}'")  # noqa: SLF001 - its plan is the matter
    rows = await till.saga.yard.sql(f"EXPLAIN {query}")
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan on payment" not in plan, plan


async def test_a_refund_made_at_the_gateway_and_told_is_no_difference_to_a_reconciliation(
    till: Till,
) -> None:
    payment = await till.charged()
    refund = await refund_by_hand(till, payment, 500)

    async def unknown_refunds() -> set[str]:
        now = datetime.now(UTC)
        period = ReconcilePayments(since=now - timedelta(hours=1), until=now + timedelta(hours=1))
        staged = Staged(till.saga.tenant, period)
        async with till.saga.yard.sessions.begin() as tx:
            await stage(tx, [staged])
        await till.saga.finish()
        report = (await till.get(f"/v1/jobs/{staged.id}"))["result"]["refunds"]
        differing = [*report["gateway_only"], *(pair["gateway"] for pair in report["otherwise"])]
        return {refund["gateway_id"] for refund in differing}

    assert refund["id"] in await unknown_refunds()
    await told(till, "refund.created", refund)
    assert refund["id"] not in await unknown_refunds()
