"""Two statements are compared by the name both sides share, inside the period alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from commerce.payments.reconciliation import Charge, Period, Refund, Statement, report
from tasks.contracts import ReconcilePayments

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
PERIOD = Period(NOON - timedelta(hours=1), NOON + timedelta(hours=1))
CHARGE = Charge("p1", "pi_1", 1_499, "EUR", NOON)
REFUND = Refund("r1", "pi_1", "re_1", 500, "EUR", NOON)
BOTH = Statement([CHARGE], [REFUND])


def is_balanced(gateway: Statement, books: Statement) -> bool:
    return bool(report(gateway, books, PERIOD)["balanced"])


def test_sides_that_agree_are_balanced_whenever_each_says_it_was() -> None:
    later = Statement(
        [replace(CHARGE, created=NOON + timedelta(minutes=5))],
        [replace(REFUND, gateway_id="", created=NOON + timedelta(minutes=5))],
    )
    assert is_balanced(BOTH, later)
    assert is_balanced(Statement([], []), Statement([], []))


def test_one_difference_of_either_kind_is_enough() -> None:
    assert not is_balanced(BOTH, replace(BOTH, refunds=[]))
    assert not is_balanced(replace(BOTH, charges=[]), BOTH)
    assert not is_balanced(BOTH, replace(BOTH, refunds=[replace(REFUND, amount=499)]))
    assert not is_balanced(replace(BOTH, refunds=[REFUND, replace(REFUND)]), BOTH)


def test_what_lies_outside_the_period_is_no_difference() -> None:
    before = NOON - timedelta(hours=2)
    old = Statement([replace(CHARGE, created=before)], [replace(REFUND, created=before)])
    nothing = Statement([], [])
    assert is_balanced(old, nothing)
    assert is_balanced(nothing, old)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_period_that_no_clock_can_count_is_refused_before_it_is_a_job(moment: str) -> None:
    for since, until in ((moment, NOON), (NOON, moment)):
        with pytest.raises(ValidationError):
            ReconcilePayments.model_validate({"since": since, "until": until})
    ReconcilePayments(since=PERIOD.since, until=PERIOD.until)
