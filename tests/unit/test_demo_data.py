"""The demo's orders are the CDNOW sample, to the cent."""

from __future__ import annotations

import csv
from itertools import groupby
from pathlib import Path

from email_validator import validate_email

from demo.cdnow import ORDERS, SOURCE, purchases, write_orders


def test_the_script_reproduces_the_shipped_orders_byte_for_byte(tmp_path: Path) -> None:
    write_orders(SOURCE, tmp_path / "orders.csv")
    assert (tmp_path / "orders.csv").read_bytes() == ORDERS.read_bytes()


def test_the_sample_is_as_published() -> None:
    assert SOURCE.read_bytes().count(b"\r\n") == 6919


def test_no_purchase_or_cd_or_cent_is_added_or_lost() -> None:
    with SOURCE.open(encoding="ascii") as rows:
        bought = list(purchases(rows))
    with ORDERS.open(newline="") as file:
        orders = [
            list(rows) for _, rows in groupby(csv.DictReader(file), lambda row: row["order_key"])
        ]
    assert [int(order[0]["order_key"]) for order in orders] == list(range(1, 6920))
    counts = [sum(int(line["quantity"]) for line in order) for order in orders]
    totals = [
        sum(int(line["quantity"]) * int(line["unit_amount"]) for line in order) for order in orders
    ]
    assert counts == [purchase.cds for purchase in bought]
    assert totals == [purchase.cents for purchase in bought]
    assert (sum(counts), sum(totals), totals.count(0)) == (16_479, 24_409_194, 8)


def test_every_customer_has_an_address_that_validation_accepts() -> None:
    with ORDERS.open(newline="") as file:
        addresses = {row["email"] for row in csv.DictReader(file)}
    assert len(addresses) == 2357
    for address in addresses:
        assert validate_email(address, check_deliverability=False).normalized == address
