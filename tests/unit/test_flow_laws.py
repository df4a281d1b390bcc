"""The figures of flow control are read off right: a burst too many, or too late, is seen."""

from __future__ import annotations

import pytest

from benchmarks.flow import laws
from goodsyard.contracts import Rate

RATE = Rate("10/second", burst=5)


@pytest.mark.parametrize(
    ("starts", "ahead"),
    [
        ([0.0], 1.0),
        ([0.0, 0.1, 0.2], 1.0),  # at the rate
        ([0.0, 0.0, 0.0], 3.0),  # a burst
        ([0.0, 5.0, 5.0], 2.0),  # the worst window is not the longest
    ],
)
def test_the_worst_window_is_found(starts: list[float], ahead: float) -> None:
    assert laws.ahead(starts, [1.0] * len(starts), 10) == pytest.approx(ahead)


def test_a_job_counts_by_its_cost() -> None:
    assert laws.ahead([0.0, 0.1], [2.0, 0.5], 10) == pytest.approx(2.0)


def test_one_start_more_than_the_law_allows_is_an_excess() -> None:
    allowed = round(RATE.per_second + RATE.capacity)
    for more, excess in ((0, 0.0), (1, 1.0)):
        starts = [0.0] * (allowed + more)
        assert laws.excess(starts, [1.0] * len(starts), RATE, 1.0) == pytest.approx(excess)


def test_a_burst_is_no_part_of_the_rate_that_was_reached() -> None:
    starts = [0.0] * 5 + [n / 10 for n in range(1, 11)]
    assert laws.reached(starts, [1.0] * len(starts), RATE) == pytest.approx(1.0)


def test_calls_that_overlap_are_out_at_once_and_one_after_the_other_are_not() -> None:
    assert max(out for _, out in laws.at_once([0.0, 0.1, 0.3], 0.2)) == 2
    assert max(out for _, out in laws.at_once([0.0, 0.2], 0.2)) == 1


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (laws.percentile(values, 0.5), laws.percentile(values, 0.99)) == (50.0, 99.0)
