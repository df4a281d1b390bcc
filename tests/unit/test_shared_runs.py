"""What stands for a request, decided from the rows of the jobs that its key names."""

from __future__ import annotations

import pytest

from goodsyard.contracts import Cache
from goodsyard.job import JobState, new_id
from goodsyard.shared_runs import Choice, Found, Run, Shared, Unique, choose_cached, choose_unique

CACHE = Cache(ttl=60, negative_ttl=5, stale_while_revalidate=30)
LATEST, REFRESH = new_id(), new_id()


def run(state: JobState, ended: float | None = None, reason: str | None = None) -> Run:
    return Run(LATEST, state, reason, ended, (ended or 0) + 1)


def succeeded(ago: float) -> Run:
    return run(JobState.SUCCEEDED, ago)


def refresh(state: JobState, ended: float | None = None, reason: str | None = None) -> Run:
    return run(state, ended, reason)._replace(id=REFRESH)


LIVE = [JobState.WAITING, JobState.DISPATCHED, JobState.RUNNING]
NEW = Choice(None)


@pytest.mark.parametrize("state", LIVE)
def test_a_run_under_way_is_shared(state: JobState) -> None:
    assert choose_cached(CACHE, run(state), None) == Choice(
        Shared(LATEST, Found.UNDER_WAY), latest=LATEST
    )


def test_a_result_stands_until_it_expires() -> None:
    assert choose_cached(CACHE, succeeded(59), None).shared == Shared(LATEST, Found.HIT, 1)


def test_an_expired_result_is_given_out_while_one_run_makes_the_next() -> None:
    first = choose_cached(CACHE, succeeded(61), None)
    assert first == Choice(Shared(LATEST, Found.STALE, -1), refresh=True, latest=LATEST)
    for state in LIVE:
        again = choose_cached(CACHE, succeeded(61), refresh(state))
        assert again == Choice(Shared(LATEST, Found.STALE, -1), latest=LATEST, pending=REFRESH)


def test_the_next_result_takes_the_place_of_the_expired_one() -> None:
    choice = choose_cached(CACHE, succeeded(85), refresh(JobState.SUCCEEDED, 1))
    assert choice == Choice(Shared(REFRESH, Found.HIT, 59), latest=REFRESH)


def test_what_has_expired_for_too_long_waits_for_the_run_that_makes_the_next() -> None:
    choice = choose_cached(CACHE, succeeded(91), refresh(JobState.RUNNING))
    assert choice.shared == Shared(REFRESH, Found.UNDER_WAY)
    assert choose_cached(CACHE, succeeded(91), None) == NEW


def test_a_refresh_that_was_refused_is_not_tried_again_at_once() -> None:
    refused = refresh(JobState.DEAD, 1, "refused")
    assert choose_cached(CACHE, succeeded(61), refused) == Choice(
        Shared(LATEST, Found.STALE, -1), latest=LATEST, pending=REFRESH
    )
    assert choose_cached(CACHE, succeeded(91), refused).shared == Shared(REFRESH, Found.HIT, 4)


@pytest.mark.parametrize(
    "failed",
    [
        refresh(JobState.DEAD, 6, "refused"),
        refresh(JobState.DEAD, 6, "attempts"),
        refresh(JobState.CANCELLED, 6),
    ],
)
def test_a_refresh_that_came_to_nothing_is_followed_by_another(failed: Run) -> None:
    choice = choose_cached(CACHE, succeeded(61), failed)
    assert choice == Choice(Shared(LATEST, Found.STALE, -1), refresh=True, latest=LATEST)


@pytest.mark.parametrize("reason", ["refused", "attempts", "lost", "uncertain"])
@pytest.mark.parametrize("cache", [CACHE, Cache(ttl=60, stale_while_revalidate=30)])
def test_a_refresh_that_died_however_it_did_rests_a_while(cache: Cache, reason: str) -> None:
    choice = choose_cached(cache, succeeded(61), refresh(JobState.DEAD, 0.5, reason))
    assert choice == Choice(Shared(LATEST, Found.STALE, -1), latest=LATEST, pending=REFRESH)


def test_a_refusal_stands_for_its_own_time_and_no_other_death_does() -> None:
    assert choose_cached(CACHE, run(JobState.DEAD, 4, "refused"), None).shared == Shared(
        LATEST, Found.HIT, 1
    )
    assert choose_cached(CACHE, run(JobState.DEAD, 6, "refused"), None) == NEW
    for reason in ("attempts", "lost", "uncertain"):
        assert choose_cached(CACHE, run(JobState.DEAD, 1, reason), None) == NEW


def test_what_was_cancelled_or_is_gone_stands_for_nothing() -> None:
    assert choose_cached(CACHE, run(JobState.CANCELLED, 1), None) == NEW
    assert choose_cached(CACHE, None, None) == NEW


def test_without_a_time_for_it_nothing_stale_and_no_refusal_is_given_out() -> None:
    plain = Cache(ttl=60)
    assert choose_cached(plain, succeeded(60.1), None) == NEW
    assert choose_cached(plain, run(JobState.DEAD, 0.1, "refused"), None) == NEW


@pytest.mark.parametrize("times", [{"ttl": 0}, {"ttl": 1, "negative_ttl": -1}])
def test_a_cache_without_time_is_refused_where_it_is_written(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ttl"):
        Cache(times["ttl"], negative_ttl=times.get("negative_ttl", 0))


DONE = Unique({JobState.SUCCEEDED}, period=60)


@pytest.mark.parametrize("state", LIVE)
def test_what_is_live_has_its_unique_key_whatever_the_period(state: JobState) -> None:
    old = Run(LATEST, state, None, None, 1_000)
    assert choose_unique(DONE, old).shared == Shared(LATEST, Found.UNDER_WAY)


def test_what_is_over_has_its_unique_key_in_the_states_and_the_period_asked_for() -> None:
    assert choose_unique(DONE, succeeded(58)).shared == Shared(LATEST, Found.HIT)
    assert choose_unique(DONE, succeeded(60)) == NEW
    assert choose_unique(DONE, run(JobState.DEAD, 1, "attempts")) == NEW
    assert choose_unique(DONE, None) == NEW
