"""A rate, a backoff and a contract mean what they say, or are refused where they are written."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from goodsyard.calling import CALL_SECONDS
from goodsyard.contracts import Backoff, Effect, Rate
from goodsyard.patience import PATIENCE_SECONDS
from goodsyard.turns import TURN_SECONDS
from tasks import contracts
from tasks.contracts import ProcessOrder, SendEmail


@pytest.mark.parametrize(
    ("rate", "per_second"),
    [
        ("50/second", 50.0),
        ("100/minute", 100 / 60),
        ("7200/hour", 2.0),
        ("86400/day", 1.0),
        ("0.5/second", 0.5),
    ],
)
def test_a_rate_is_a_count_and_a_unit(rate: str, per_second: float) -> None:
    assert Rate(rate).per_second == pytest.approx(per_second)


@pytest.mark.parametrize(
    "rate", ["", "100", "100/fortnight", "-1/second", "1e3/second", "100 / minute", "100/minutes"]
)
def test_a_rate_of_another_form_is_refused_by_what_was_written(rate: str) -> None:
    with pytest.raises(ValueError, match="is not of the form '100/minute'"):
        Rate(rate)


@pytest.mark.parametrize(("rate", "burst"), [("0/second", None), ("10/second", 0.5)])
def test_a_rate_that_lets_nothing_start_is_refused(rate: str, burst: float | None) -> None:
    with pytest.raises(ValueError, match="must let at least one job start"):
        Rate(rate, burst)


def test_a_burst_is_a_tenth_of_a_second_and_at_least_one_job_unless_it_is_given() -> None:
    assert Rate("500/second").capacity == 50
    assert Rate("1/day").capacity == 1
    assert Rate("100/minute", burst=20).capacity == 20


def test_a_backoff_doubles_with_each_failure_up_to_its_cap() -> None:
    backoff = Backoff(base=2, cap=60)
    #                                      2 * 2**0 .. 2**4 = 32, then 64 is over the cap
    assert [backoff.ceiling(failures) for failures in (1, 2, 3, 4, 5, 6, 7)] == [
        2, 4, 8, 16, 32, 60, 60,
    ]  # fmt: skip


def test_a_backoff_does_not_overflow_however_often_a_job_failed() -> None:
    assert Backoff(base=1e300, cap=300).ceiling(32_767) == 300


def test_kinds_are_told_apart_by_their_names_alone() -> None:
    kinds = [contract.kind for contract in contracts.ALL]
    assert len(set(kinds)) == len(kinds)


def test_every_kind_has_a_queue_that_workers_consume() -> None:
    assert {contract.policy.queue for contract in contracts.ALL} <= set(contracts.QUEUES)


def test_a_lease_outlives_the_slowest_call_and_its_settlement() -> None:
    leased = [c for c in contracts.ALL if c.effect is Effect.EXTERNAL]
    assert leased
    longest = TURN_SECONDS + CALL_SECONDS + PATIENCE_SECONDS
    assert all(c.policy.lease > longest for c in leased)


def test_a_payload_with_a_field_too_many_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ProcessOrder.model_validate(
            {"order_id": "01890a5d-ac96-774b-bcce-b302099a8057", "total": 1}
        )


def test_a_payload_cannot_be_changed_once_it_is_made() -> None:
    mail = SendEmail(to="ann@example.com")
    with pytest.raises(ValidationError, match="frozen"):
        mail.to = "bob@example.com"  # type: ignore[misc]  # the law: a handler can't do this
