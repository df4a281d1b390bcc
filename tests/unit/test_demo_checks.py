"""Every promise of the demo can be broken, and then says so."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from demo.cdnow import ORDERS
from ops.demo.checks import check_all
from ops.demo.evidence import Evidence, Shelf
from ops.demo.expectation import Expectation, expectation_of

ON_HAND = 100


def expected() -> Expectation:
    """Two orders of 10.00 and 5.00, and a free one."""
    return Expectation(
        orders=3,
        charges=2,
        total=1500,
        pieces=Counter({"CD": 4}),
        receipts=Counter({"anna@example.com": 2, "bert@example.com": 1}),
    )


def good() -> Evidence:
    return Evidence(
        outcomes={"paid": 3},
        captures={"p1": 1000, "p2": 500},
        charges=[charge("p1", 1000), charge("p2", 500)],
        mails=[mail("m1", "anna"), mail("m2", "anna"), mail("m3", "bert")],
        shelves={"CD": Shelf(on_hand=96, reserved=0)},
        jobs_done=9,
        latency=(0.1, 0.2, 0.3),
    )


def charge(payment: str, amount: int, status: str = "succeeded") -> dict[str, object]:
    return {"idempotency_key": f"{payment}:charge", "amount": amount, "status": status}


def mail(message_id: str, who: str) -> dict[str, object]:
    return {"message_id": message_id, "to": f"{who}@example.com"}


def broken(evidence: Evidence) -> set[str]:
    return {c.promise for c in check_all(expected(), evidence, ON_HAND) if not c.held}


def test_a_run_without_fault_keeps_every_promise() -> None:
    assert broken(good()) == set()


PAID = "Every order of the file is paid"
TAKEN = "The gateway took what the file asks for"
TWICE = "No payment was attempted twice"
BOOKED = "The ledger has each charge, once, and no other"
RECEIPTS = "There is a receipt for every order"
COPIES = "No receipt came twice"
STOCK = "What was sold left the shelf, nothing else"


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ({"outcomes": {"paid": 2, "pending": 1}}, {PAID}),
        ({"outcomes": {"paid": 4}}, {PAID}),
        ({"charges": [charge("p1", 1000)]}, {TAKEN, BOOKED}),
        ({"charges": [charge("p1", 1000), charge("p2", 501)]}, {TAKEN, BOOKED}),
        ({"charges": [*good().charges, charge("p2", 500)]}, {TWICE}),
        ({"charges": [*good().charges, charge("p3", 1)]}, {TAKEN, BOOKED}),
        ({"charges": [charge("p1", 1000, "failed"), charge("p2", 500)]}, {TAKEN, BOOKED}),
        ({"captures": {"p1": 1000}}, {BOOKED}),
        ({"captures": {"p1": 500, "p2": 1000}}, {BOOKED}),
        ({"mails": good().mails[:2]}, {RECEIPTS}),
        ({"mails": [*good().mails, mail("m3", "bert")]}, {COPIES}),
        ({"mails": [mail("m1", "anna"), mail("m2", "bert"), mail("m3", "bert")]}, {RECEIPTS}),
        ({"shelves": {"CD": Shelf(97, 0)}}, {STOCK}),
        ({"shelves": {"CD": Shelf(96, 1)}}, {STOCK}),
    ],
)
def test_a_broken_promise_is_told_by_name(change: dict[str, Any], promises: set[str]) -> None:
    assert broken(replace(good(), **change)) == promises


def test_the_expectation_comes_from_the_file_alone() -> None:
    cdnow = expectation_of(ORDERS)
    assert (cdnow.orders, cdnow.charges, cdnow.total) == (6919, 6911, 24_409_194)
    assert cdnow.pieces == {"CD": 16_479}
    assert (cdnow.receipts.total(), len(cdnow.receipts)) == (6919, 2357)
