"""Orders from their first claim to the last one paid: reserved, charged at a gateway, booked, told.

The receipts are staged with the payments; ``goodsyard with mails`` also sends them and waits for
the last.
"""

from __future__ import annotations

import httpx

from benchmarks.arms import Arm, Figures
from benchmarks.orders import bulks
from benchmarks.processes import BenchmarkError
from benchmarks.sections.queue import SYSTEM
from benchmarks.yard import ON_HAND, Shop, Yard
from tasks.contracts import ChargePayment, ProcessOrder, SendEmail

WITH_MAILS = f"{SYSTEM} with mails"

_ORDERS = 6_000
_SECONDS_A_BULK = 60

# By the database's own clock, as everything in it: from the first claim to the last order's end.
_SECONDS_TO_PAID = """
SELECT extract(epoch FROM
    (SELECT max(updated_at) FROM commerce.orders WHERE status = 'paid')
    - (SELECT min(started_at) FROM goodsyard.job_done WHERE kind = %(first)s))::float8
"""
_SECONDS_TO_LAST_MAIL = """
SELECT extract(epoch FROM max(finished_at) FILTER (WHERE kind = %(mail)s)
                        - min(started_at) FILTER (WHERE kind = %(first)s))::float8
  FROM goodsyard.job_done
"""

_WRONG = {
    "orders that are not paid": """
        SELECT count(*) FROM commerce.orders WHERE status <> 'paid'
        """,
    "orders without their one payment": """
        SELECT count(*) FROM commerce.orders o
        WHERE (SELECT array_agg(p.amount) FROM commerce.payment p
                WHERE p.order_id = o.id AND p.state = 'succeeded')
            IS DISTINCT FROM ARRAY[o.total]
        """,
    "payments without their one transfer": """
        SELECT count(*) FROM commerce.payment p
        WHERE (SELECT array_agg(t.amount) FROM commerce.transfer t WHERE t.payment_id = p.id)
            IS DISTINCT FROM ARRAY[p.amount]
        """,
    "SKUs with a wrong stock": """
        SELECT count(*) FROM commerce.stock s
        LEFT JOIN (SELECT sku, sum(quantity) AS sold FROM commerce.order_line GROUP BY sku) l
            USING (sku)
        WHERE s.on_hand - s.reserved <> %(on_hand)s - coalesce(sold, 0)
        """,
    "orders more or less": "SELECT %(orders)s - count(*) FROM commerce.orders",
    "receipts more or less": """
        SELECT %(orders)s - count(*) FROM (
            SELECT kind FROM goodsyard.job UNION ALL SELECT kind FROM goodsyard.job_done
        ) WHERE kind = %(mail)s
        """,
}
PAID = "SELECT count(*) FROM commerce.orders WHERE status = 'paid'"


def arms(shop: Shop) -> list[Arm]:
    """Return Goodsyard's arms of ``chain``."""
    return [
        Arm("chain", SYSTEM, _ORDERS, lambda orders: _run(shop, orders, mails=False)),
        Arm("chain", WITH_MAILS, _ORDERS, lambda orders: _run(shop, orders, mails=True)),
    ]


def _run(shop: Shop, orders: int, *, mails: bool) -> Figures:
    with shop.yard() as yard:
        take_in(yard, orders, paused=not mails)
        yard.start_gateway()
        if mails:
            yard.start_mail_sink()
        yard.start_relay()
        yard.start_workers()
        yard.wait("orders are paid", lambda: yard.number(PAID), orders)
        yard.await_done(ChargePayment.kind, orders)
        if mails:
            yard.await_done(SendEmail.kind, orders)
        _verify(yard, orders)
        took = _SECONDS_TO_LAST_MAIL if mails else _SECONDS_TO_PAID
        [seconds] = yard.row(took, first=ProcessOrder.kind, mail=SendEmail.kind)
    return {"chain": {WITH_MAILS if mails else SYSTEM: orders / seconds}}


def take_in(yard: Yard, orders: int, *, paused: bool) -> None:
    """Hand the orders in at the API, before anybody works, and let the API go."""
    address = yard.start_api()
    with httpx.Client(
        base_url=address,
        headers={"Authorization": f"Bearer {yard.api_key}"},
        timeout=_SECONDS_A_BULK,
        trust_env=False,
    ) as api:
        if paused:
            api.post("/v1/queues/notifications/pause").raise_for_status()
        for bulk in bulks(yard.users(), orders):
            results = api.post("/v1/orders/bulk", json=bulk).raise_for_status().json()["results"]
            refused = [result for result in results if result["status"] != httpx.codes.ACCEPTED]
            if refused:
                raise BenchmarkError(f"the API refused an order: {refused[0]}")
    yard.end("api")


def _verify(yard: Yard, orders: int) -> None:
    found = {
        what: yard.number(query, orders=orders, on_hand=ON_HAND, mail=SendEmail.kind)
        for what, query in _WRONG.items()
    }
    if any(found.values()):
        raise BenchmarkError(", ".join(f"{n} {what}" for what, n in found.items() if n))
