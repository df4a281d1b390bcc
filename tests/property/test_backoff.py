"""Waits grow with the failures, never beyond their cap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goodsyard.contracts import Backoff, Rate

seconds = st.floats(min_value=0.001, max_value=1e9)
failures = st.integers(1, 2**15 - 1)


@given(seconds, seconds, failures)
def test_a_backoff_is_bounded(base: float, cap: float, count: int) -> None:
    assert 0 < Backoff(base, cap).ceiling(count) <= cap


@given(seconds, seconds, failures, failures)
def test_without_jitter_a_backoff_is_monotone(
    base: float, cap: float, fewer: int, more: int
) -> None:
    fewer, more = sorted((fewer, more))
    backoff = Backoff(base, cap)
    assert backoff.ceiling(fewer) <= backoff.ceiling(more)


@given(seconds, failures)
def test_below_its_cap_a_backoff_doubles(base: float, count: int) -> None:
    backoff = Backoff(base, cap=float("inf"))
    assert backoff.ceiling(count + 1) == backoff.ceiling(count) * (2 if count <= 32 else 1)


@given(
    st.integers(1, 10**6), st.sampled_from(["second", "minute", "hour", "day"]),
    st.none() | st.floats(min_value=1, max_value=1e6),
)  # fmt: skip
def test_every_rate_lets_something_start(count: int, unit: str, burst: float | None) -> None:
    rate = Rate(f"{count}/{unit}", burst)
    assert rate.per_second > 0
    assert rate.capacity >= 1
