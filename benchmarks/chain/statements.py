"""The chain's statements: each changes its rows once, whatever comes again."""

from __future__ import annotations

CONNECTIONS = 8
"""What each worker process opens to Postgres."""

RESERVE_ORDER = """
UPDATE orders SET status = 'reserved' WHERE id = %s AND status = 'new'
RETURNING first_sku, second_sku
"""
# Locked in the order of the SKUs, so that no two orders wait for each other.
TAKE_STOCK = """
WITH locked AS (SELECT sku FROM stock WHERE sku IN (%s, %s) ORDER BY sku FOR UPDATE)
UPDATE stock SET on_hand = on_hand - 1 FROM locked WHERE stock.sku = locked.sku
"""

READ_CHARGE = (
    "SELECT payment_id, amount, currency FROM orders WHERE id = %s AND status = 'reserved'"
)
INSERT_PAYMENT = """
INSERT INTO payment (id, order_id, amount, currency, gateway_id) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""
INSERT_LEDGER = """
INSERT INTO ledger (payment_id, account, amount) VALUES (%s, 'gateway', %s), (%s, 'sales', %s)
ON CONFLICT DO NOTHING
"""
PAY_ORDER = "UPDATE orders SET status = 'paid' WHERE id = %s AND status = 'reserved'"

INSERT_NOTIFICATION = "INSERT INTO notification (order_id) VALUES (%s) ON CONFLICT DO NOTHING"
NOTIFY_ORDER = "UPDATE orders SET status = 'notified' WHERE id = %s AND status = 'paid'"


def charge_form(payment: object, amount: int, currency: str) -> dict[str, str]:
    """Return the form of a PaymentIntent, as Stripe's API takes it."""
    return {
        "amount": str(amount),
        "currency": currency.lower(),
        "payment_method": "pm_card_visa",
        "confirm": "true",
        "off_session": "true",
        "metadata[payment_id]": str(payment),
    }


def charge_headers(payment: object) -> dict[str, str]:
    """Return the headers of a charge: who asks, and the key under which a repeat is none."""
    return {"Authorization": "Bearer sk_test_benchmarks", "Idempotency-Key": f"{payment}:charge"}
