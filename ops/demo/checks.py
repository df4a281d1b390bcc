"""The promises a demo is held to, each checked against what the system can't have made up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ops.demo.evidence import Evidence
from ops.demo.expectation import Expectation


@dataclass(frozen=True, slots=True)
class Check:
    """A promise, whether it was kept, and what was found."""

    promise: str
    held: bool
    found: str


def check_all(expected: Expectation, evidence: Evidence, on_hand_before: int) -> list[Check]:
    """Judge a demo; ``on_hand_before`` is what each SKU had when it began."""
    return [
        _orders_are_paid(expected, evidence),
        _charges_are_those_of_the_file(expected, evidence),
        _nobody_is_charged_twice(evidence),
        _ledger_equals_gateway(expected, evidence),
        _receipts_are_those_of_the_file(expected, evidence),
        _no_receipt_came_twice(evidence),
        _stock_is_exact(expected, evidence, on_hand_before),
    ]


def succeeded(evidence: Evidence) -> dict[str, int]:
    """Return what the gateway took, by idempotency key."""
    return {
        charge["idempotency_key"]: charge["amount"]
        for charge in evidence.charges
        if charge["status"] == "succeeded"
    }


def extra_copies(evidence: Evidence) -> int:
    """Count mails that came again under the same message id."""
    return len(evidence.mails) - len({mail["message_id"] for mail in evidence.mails})


def _orders_are_paid(expected: Expectation, evidence: Evidence) -> Check:
    paid = evidence.outcomes.get("paid", 0)
    held = paid == expected.orders == sum(evidence.outcomes.values())
    return Check("Every order of the file is paid", held, f"{paid:,} of {expected.orders:,}")


def _charges_are_those_of_the_file(expected: Expectation, evidence: Evidence) -> Check:
    charges = succeeded(evidence)
    total = sum(charges.values())
    held = (len(charges), total) == (expected.charges, expected.total)
    return Check(
        "The gateway took what the file asks for",
        held,
        f"{len(charges):,} charges, {total:,} cents",
    )


def _nobody_is_charged_twice(evidence: Evidence) -> Check:
    attempts = Counter(charge["idempotency_key"] for charge in evidence.charges)
    repeated = sum(count - 1 for count in attempts.values())
    return Check("No payment was attempted twice", repeated == 0, f"{repeated:,} repeats")


def _ledger_equals_gateway(expected: Expectation, evidence: Evidence) -> Check:
    booked = {f"{payment}:charge": amount for payment, amount in evidence.captures.items()}
    held = booked == succeeded(evidence) and sum(booked.values()) == expected.total
    return Check(
        "The ledger has each charge, once, and no other",
        held,
        f"{len(booked):,} captures, {sum(booked.values()):,} cents",
    )


def _receipts_are_those_of_the_file(expected: Expectation, evidence: Evidence) -> Check:
    received = Counter(
        to for to, _ in {(mail["to"], mail["message_id"]) for mail in evidence.mails}
    )
    return Check(
        "There is a receipt for every order",
        received == expected.receipts,
        f"{received.total():,} receipts to {len(received):,} addresses",
    )


def _no_receipt_came_twice(evidence: Evidence) -> Check:
    extra = extra_copies(evidence)
    return Check("No receipt came twice", extra == 0, f"{extra:,} extra copies")


def _stock_is_exact(expected: Expectation, evidence: Evidence, on_hand_before: int) -> Check:
    taken = {sku: on_hand_before - shelf.on_hand for sku, shelf in evidence.shelves.items()}
    reserved = sum(shelf.reserved for shelf in evidence.shelves.values())
    return Check(
        "What was sold left the shelf, nothing else",
        taken == expected.pieces and reserved == 0,
        f"{sum(taken.values()):,} pieces taken, {reserved:,} reserved",
    )
