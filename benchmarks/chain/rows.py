"""The chain's rows before and after: what every system is given, and what it must have made of it.

A mark is left as an order's first step begins and as its last step has ended: the rate of orders is
that of their pairs of marks.
"""

from __future__ import annotations

from pathlib import Path

import psycopg

from benchmarks import marks

SKUS = 1_000
ON_HAND = 1_000_000
"""Pieces of each SKU: more than any run sells."""

_SCHEMA = Path(__file__).with_name("schema.sql")

_STOCK = "INSERT INTO stock (sku, on_hand) SELECT sku, %s FROM generate_series(1, %s) AS sku"

# The second SKU is any but the first; the same ones in every run.
_ORDERS = """
INSERT INTO orders (id, status, first_sku, second_sku, amount, currency, payment_id)
SELECT id, 'new', 1 + first, 1 + (first + step) %% %(skus)s, 1000 + id %% 9000, 'EUR', uuidv7()
FROM (
    SELECT id, (random() * %(skus)s)::integer %% %(skus)s AS first,
        1 + (random() * %(skus)s)::integer %% (%(skus)s - 1) AS step
    FROM (SELECT setseed(0.25)), generate_series(1, %(orders)s) AS id
)
"""

_WRONG = {
    "orders that are not notified": """
        SELECT count(*) FROM orders LEFT JOIN notification ON order_id = id
        WHERE status <> 'notified' OR order_id IS NULL
        """,
    "orders without their payment": """
        SELECT count(*) FROM orders LEFT JOIN payment ON payment.id = payment_id
        WHERE (order_id, payment.amount, payment.currency)
            IS DISTINCT FROM (orders.id, orders.amount, orders.currency)
        """,
    "payments more than orders": """
        SELECT (SELECT count(*) FROM payment) - (SELECT count(*) FROM orders)
        """,
    "payments whose two ledger sides are wrong": """
        SELECT count(*) FROM payment
        LEFT JOIN ledger AS debit ON debit.payment_id = id AND debit.account = 'gateway'
        LEFT JOIN ledger AS credit ON credit.payment_id = id AND credit.account = 'sales'
        WHERE (debit.amount, -credit.amount) IS DISTINCT FROM (payment.amount, payment.amount)
        """,
    "SKUs with a wrong stock": """
        SELECT count(*) FROM stock LEFT JOIN (
            SELECT sku, count(*) AS sold
            FROM orders, LATERAL (VALUES (first_sku), (second_sku)) AS line(sku) GROUP BY sku
        ) AS sales USING (sku)
        WHERE on_hand <> %(on_hand)s - coalesce(sold, 0)
        """,
}


def seed(dsn: str, orders: int) -> None:
    """Make the tables and the orders 1 to ``orders``, all new, as they would look to a planner."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_SCHEMA.read_bytes())
        connection.execute(_STOCK, [ON_HAND, SKUS])
        connection.execute(_ORDERS, {"skus": SKUS, "orders": orders})
        # Not the tables that are still empty: a plan for one known to be empty reads all of it, and
        # is kept while it fills.
        connection.execute("VACUUM ANALYZE stock, orders")


def verify(dsn: str) -> None:
    """See that each order was carried out once and wholly.

    Raises:
        ValueError: says how many rows are wrong, and how.
    """
    with psycopg.connect(dsn) as connection:
        for what, query in _WRONG.items():
            [wrong] = connection.execute(query, {"on_hand": ON_HAND}).fetchone() or [0]
            if wrong:
                raise ValueError(f"{wrong} {what}")


def begins(*orders: int) -> None:
    """Leave the mark of orders whose first step begins now."""
    marks.leave(*(2 * order for order in orders))


def ended(*orders: int) -> None:
    """Leave the mark of orders whose last step is committed now."""
    marks.leave(*(2 * order + 1 for order in orders))


def marks_of(orders: int) -> range:
    """Return the numbers of the marks that orders 1 to ``orders`` leave."""
    return range(2, 2 * orders + 2)


def rate(folder: Path, orders: int) -> float:
    """Return orders a second, from the first one's begin to the last one's end.

    Raises:
        ValueError: a first or last step ran twice, or not at all.
    """
    return marks.rate(folder, marks_of(orders)) / 2
