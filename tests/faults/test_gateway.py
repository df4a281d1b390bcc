"""Whatever the gateway does with a charge, it is asked under one key and charges nobody twice."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from operator import itemgetter

import pytest

from commerce.payments.gateway import CALL_SECONDS
from commerce.payments.rules import KEY_SECONDS, charge_key
from goodsyard.dispatch import QUARANTINE_AFTER
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.sandbox import Entry
from tests.harness.shop import Row, Shop

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("good_behaviour")]

PATIENCE = timedelta(seconds=CALL_SECONDS)
"""After which a call without an answer is over for us, whatever the gateway still does."""


def calls_of(shop: Shop) -> list[list[Entry]]:
    """Return the calls of each of the shop's charges, in order."""
    keys = {charge_key(row["id"]) for row in _payments(shop)}
    calls = [call for call in shop.sandbox.calls() if call["idempotency_key"] in keys]
    by_key = itemgetter("idempotency_key")
    return [list(calls) for _, calls in groupby(sorted(calls, key=by_key), key=by_key)]


def _payments(shop: Shop) -> list[Row]:
    return shop.rows("SELECT id FROM commerce.payment WHERE tenant = %(tenant)s")


def assert_one_call_at_a_time(shop: Shop) -> None:
    """No charge was sent again while we waited for an answer to it: its lease was ours alone."""
    for calls in calls_of(shop):
        for before, after in pairwise(calls):
            ended = _at(before["ended"]) if before["ended"] else _at(before["at"]) + PATIENCE
            given_up = min(ended, _at(before["at"]) + PATIENCE)
            assert _at(after["at"]) >= given_up - timedelta(milliseconds=50), (before, after)


def _at(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


def assert_nothing_was_sent_twice(shop: Shop) -> None:
    """Every payment has the one attempt at the gateway that its key allows, declined or not."""
    attempts = Counter(charge["idempotency_key"] for charge in shop.charges())
    assert set(attempts.values()) == {1}, attempts
    assert len(attempts) == len(_payments(shop))


@pytest.mark.row(number=24)
@pytest.mark.parametrize("fault", ["charge_then_500", "charge_then_drop"])
def test_a_charge_whose_answer_is_lost_is_asked_for_again_under_its_key(
    shop: Shop, fault: str
) -> None:
    shop.sandbox.misbehave(fault, count=20)
    shop.order(40)
    shop.until_settled()
    assert max(len(calls) for calls in calls_of(shop)) > 1, "none was asked for again"
    assert_nothing_was_sent_twice(shop)
    assert_one_call_at_a_time(shop)
    assert_invariants(shop)


@pytest.mark.row(number=25)
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(2.0, id="2 s"),
        pytest.param(30.0, id="30 s", marks=[pytest.mark.long, pytest.mark.slow]),
    ],
)
def test_a_gateway_that_hangs_is_asked_again_only_once_we_have_given_it_up(
    shop: Shop, seconds: float
) -> None:
    shop.sandbox.misbehave("hang", count=5, seconds=seconds)
    shop.order(20)
    shop.until(shop.is_settled, "all orders to come to their end", 60 + 4 * seconds)
    assert max(len(calls) for calls in calls_of(shop)) > 1, "none was asked for again"
    assert shop.most_lost() == 0, "a lease ended before its call"
    assert_one_call_at_a_time(shop)
    assert_nothing_was_sent_twice(shop)
    assert_invariants(shop)


@pytest.mark.row(number=25)
@pytest.mark.parametrize("fault", ["409", "429", "500"])
def test_a_gateway_that_refuses_is_asked_once_more_for_each_refusal_and_not_before_it_says(
    shop: Shop, fault: str
) -> None:
    waits = 2 if fault == "429" else 0
    shop.sandbox.misbehave(fault, count=30, seconds=waits or None)
    shop.order(30)
    shop.until_settled()
    refused = [call for calls in calls_of(shop) for call in calls if call["status"] == int(fault)]
    assert len(refused) == 30
    assert sum(map(len, calls_of(shop))) == len(_payments(shop)) + len(refused)
    for calls in calls_of(shop):
        for before, after in pairwise(calls):
            assert _at(after["at"]) - _at(before["at"]) >= timedelta(seconds=waits)
    assert_one_call_at_a_time(shop)
    assert_nothing_was_sent_twice(shop)
    assert_invariants(shop)


@pytest.mark.row(number=25)
def test_a_slow_gateway_loses_no_job_and_has_none_sent_twice(shop: Shop) -> None:
    shop.sandbox.misbehave("latency", count=100_000, seconds=3)
    shop.order(400)
    shop.until_settled()
    assert_sent_once_each(shop)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.row(number=25)
def test_a_gateway_that_takes_ten_seconds_under_five_thousand_payments_kills_none(
    system: System, shop: Shop
) -> None:
    shop.sandbox.misbehave("latency", count=100_000, seconds=10)
    with system.cluster.worker(processes=4) as others:
        others.until_ready()
        shop.order(6_250)  # eight of ten are charged, or declined
        shop.until(shop.is_settled, "all orders to come to their end", 220)
    assert len(_payments(shop)) == 5_000
    assert_sent_once_each(shop)


def assert_sent_once_each(shop: Shop) -> None:
    """No job was dispatched much more than once, and no charge at all."""
    dispatches = shop.rows("""
        SELECT kind, sum(fence)::float8 / count(*) AS a_job, max(lost) AS lost
          FROM goodsyard.job_done WHERE tenant = %(tenant)s GROUP BY kind""")
    print(f"dispatches a job: {dispatches}")  # noqa: T201 - see -rP
    assert all(kind["a_job"] < 1.2 for kind in dispatches)
    # A message may come too late to a busy worker: a loss, but of no call, and no third one.
    assert shop.most_lost() < QUARANTINE_AFTER
    assert_one_call_at_a_time(shop)
    assert_nothing_was_sent_twice(shop)
    assert_invariants(shop)


@pytest.mark.row(number=26)
def test_a_key_that_holds_an_error_is_looked_up_and_never_exchanged_for_another(
    shop: Shop,
) -> None:
    shop.sandbox.misbehave("stored_500", count=8)
    shop.order(10)  # eight of them with a payment
    shop.until(lambda: _asked(shop, 3), "each payment to be asked for three times")
    assert shop.charges() == []
    assert {call["status"] for calls in calls_of(shop) for call in calls} == {500}
    shop.sandbox.misbehave("forget_keys")  # a day has passed at the gateway, and none for us
    shop.until_settled()
    payments = {charge_key(row["id"]) for row in _payments(shop)}
    sent = {c["idempotency_key"] for c in shop.sandbox.calls() if c["path"].endswith("intents")}
    assert sent >= payments
    assert_nothing_was_sent_twice(shop)
    assert_one_call_at_a_time(shop)
    assert_invariants(shop)


def _asked(shop: Shop, times: int) -> bool:
    calls = calls_of(shop)
    return len(calls) == 8 and all(len(each) >= times for each in calls)


@pytest.mark.row(number=27)
def test_a_charge_whose_key_may_be_forgotten_is_looked_up_and_not_sent_again(shop: Shop) -> None:
    shop.sandbox.misbehave("charge_then_drop", count=40)
    shop.order(50)
    shop.until_charged(40)
    shop.sandbox.misbehave("429", count=10_000, seconds=2)  # those not cleared up yet must wait
    aged = age(shop)
    shop.sandbox.misbehave("forget_keys")
    sent_before = {calls[0]["idempotency_key"]: len(calls) for calls in calls_of(shop)}
    shop.sandbox.behave()
    shop.until_settled()
    sent = {calls[0]["idempotency_key"]: len(calls) for calls in calls_of(shop)}
    assert {key: sent[key] for key in aged} == {key: sent_before[key] for key in aged}
    assert_nothing_was_sent_twice(shop)
    assert_invariants(shop)


@pytest.mark.row(number=27)
def test_a_charge_that_has_aged_without_a_trace_is_for_a_person(shop: Shop) -> None:
    shop.sandbox.misbehave("429", count=10_000, seconds=2)
    shop.order(10)
    aged = age(shop)
    shop.sandbox.behave()

    def judged() -> list[Row]:
        return [row for row in shop.jobs() if row["state"] == "dead"]

    shop.until(lambda: sum(row["count"] for row in judged()) == len(aged), "a verdict")
    reasons = shop.rows("SELECT DISTINCT reason FROM goodsyard.job WHERE tenant = %(tenant)s")
    assert [row["reason"] for row in reasons] == ["uncertain"]
    assert shop.charges() == []
    assert shop.outcomes()["reserved"] == len(aged)


def age(shop: Shop) -> set[str]:
    """Wait until all charges that are left wait for another try, and let their keys grow old."""
    query = """
        SELECT count(*) FILTER (WHERE state <> 'waiting' OR attempts = 0
                                   OR run_at < now() + interval '0.5 s') AS moving,
               count(*) AS left_over
          FROM goodsyard.job WHERE tenant = %(tenant)s AND kind = 'payments.charge'"""

    def all_wait() -> bool:
        [found] = shop.rows(query)
        return found["left_over"] > 0 and found["moving"] == 0 and not shop.outcomes()["pending"]

    shop.until(all_wait, "the charges that are left to wait for another try")
    rows = shop.rows(
        "UPDATE goodsyard.job SET started_at = now() - make_interval(secs => %(age)s)"
        " WHERE tenant = %(tenant)s AND kind = 'payments.charge' RETURNING subject",
        age=KEY_SECONDS + 1,
    )
    return {charge_key(row["subject"]) for row in rows}
