"""An endpoint is spared after failures in a row, asked by one, and given up after days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from commerce.notifications.health import (
    DISABLE_AFTER,
    FAILING,
    GONE,
    PAUSE_SECONDS,
    TRIP_AFTER,
    Health,
    Tally,
    after,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def spared(trips: int, until: datetime) -> Health:
    return Health(TRIP_AFTER + trips, NOW - timedelta(hours=1), trips, until)


def test_a_few_failures_are_everyday() -> None:
    health = after(Health(), Tally(failed=TRIP_AFTER - 1), NOW)
    assert (health.spared_until, health.failing_since) == (None, NOW)


def test_failures_in_a_row_spare_an_endpoint() -> None:
    health = Health()
    for _ in range(TRIP_AFTER):
        assert health.spared_until is None
        health = after(health, Tally(failed=1), NOW)
    assert health.spared_until == NOW + timedelta(seconds=PAUSE_SECONDS[0])


def test_one_success_forgets_all_failures() -> None:
    assert after(spared(3, NOW), Tally(delivered=1, failed=7), NOW) == Health()


def test_calls_that_were_out_when_it_was_first_spared_spare_it_no_longer() -> None:
    until = NOW + timedelta(seconds=9)
    assert after(spared(1, until), Tally(failed=50), NOW).spared_until == until


@pytest.mark.parametrize(("trips", "seconds"), [(1, 20), (2, 40), (5, 320), (6, 600), (99, 600)])
def test_each_try_that_fails_doubles_the_pause_up_to_the_most(trips: int, seconds: float) -> None:
    # Whoever tries has made the others wait meanwhile.
    before = spared(trips, NOW + timedelta(seconds=20))
    health = after(before, Tally(failed=1, probed=True), NOW)
    assert health.spared_until == NOW + timedelta(seconds=seconds)
    assert health.trips == trips + 1


def test_gone_disables_at_once_and_keeps_the_first_moment() -> None:
    health = after(Health(), Tally(delivered=1, gone=True), NOW)
    assert (health.disabled_at, health.disabled_reason) == (NOW, GONE)
    assert after(health, Tally(gone=True), NOW + timedelta(1)).disabled_at == NOW


def test_days_of_failures_disable() -> None:
    since = NOW - DISABLE_AFTER
    almost = Health(9, since + timedelta(seconds=1), 2, NOW)
    assert after(almost, Tally(failed=1), NOW).disabled_at is None
    health = after(Health(9, since, 2, NOW), Tally(failed=1), NOW)
    assert (health.disabled_at, health.disabled_reason) == (NOW, FAILING)


def test_what_answers_late_does_not_enable_an_endpoint() -> None:
    disabled = Health(disabled_at=NOW, disabled_reason=GONE)
    assert after(disabled, Tally(delivered=1), NOW) == disabled
