"""Turns the CDNOW sample into orders, row by row: no purchase, CD or cent is added or lost.

    python -m demo.cdnow

reads ``demo/CDNOW_sample.txt`` and writes ``demo/orders.csv``.

The sample is a tenth of the customers who bought at CDNOW for the first time in early 1997, with
all they bought until June 1998: published by Bruce Hardie and Peter Fader, and here as the PyPI
package ``lifetimes`` carries it, in ``lifetimes/datasets/CDNOW_sample.txt``. Its columns are the
customer's id in the master file, the id in the sample, the date, the number of CDs and the dollars.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "CDNOW_sample.txt"
ORDERS = Path(__file__).parent / "orders.csv"

HEADER = ("order_key", "email", "currency", "sku", "quantity", "unit_amount", "payment_method")


@dataclass(frozen=True, slots=True)
class Purchase:
    """One row of the sample: what a customer bought on a day."""

    customer: str
    cds: int
    cents: int


def purchases(rows: Iterable[str]) -> Iterator[Purchase]:
    """Read the sample's rows."""
    for row in rows:
        customer, _sample_id, _date, cds, dollars = row.split()
        whole, _, hundredths = dollars.partition(".")
        yield Purchase(customer, int(cds), int(whole) * 100 + int(hundredths))


def lines(purchase: Purchase) -> list[tuple[int, int]]:
    """Return the order's lines, as quantity and unit amount in cents.

    n CDs for t cents rarely cost the same each: r = t mod n of them cost a cent more than the rest.
    """
    unit, dearer = divmod(purchase.cents, purchase.cds)
    both = [(purchase.cds - dearer, unit), (dearer, unit + 1)]
    return [(quantity, amount) for quantity, amount in both if quantity]


def write_orders(source: Path, orders: Path) -> None:
    """Write the orders of ``source`` to ``orders``, keyed by the number of their row."""
    with source.open(encoding="ascii") as rows, orders.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for number, purchase in enumerate(purchases(rows), start=1):
            email = f"customer-{purchase.customer}@cdnow.example"
            for quantity, unit_amount in lines(purchase):
                writer.writerow((number, email, "USD", "CD", quantity, unit_amount, "pm_card_visa"))


if __name__ == "__main__":
    write_orders(SOURCE, ORDERS)
