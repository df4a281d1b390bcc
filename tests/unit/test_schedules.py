"""When a schedule ticks: its zone, the changes of its clock, and what becomes of missed ticks."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract
from goodsyard.schedules import LATE, MOST_AT_ONCE, Misfire, Schedule, Timetable
from tasks import schedules

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOURLY = [NOON + timedelta(hours=hour) for hour in range(5)]


async def nothing(_tx: AsyncSession, _tick: datetime) -> Iterable[tuple[int, Contract]]:
    return ()


def schedule(
    cron: str = "0 * * * *", zone: str = "UTC", misfire: Misfire = Misfire.SKIP
) -> Schedule:
    return Schedule("test", cron, nothing, zone, misfire)


def local(cron: str, start: str, most: int) -> list[str]:
    """Return the ticks in Berlin after a day's noon, as its clocks show them."""
    berlin = ZoneInfo("Europe/Berlin")
    after = datetime.fromisoformat(f"{start}T12:00:00").replace(tzinfo=berlin)
    ticks = islice(schedule(cron, "Europe/Berlin").after(after), most)
    return [tick.astimezone(berlin).isoformat(timespec="minutes") for tick in ticks]


def test_a_schedule_ticks_in_its_own_zone() -> None:
    tokyo = schedule("0 9 * * 1-5", "Asia/Tokyo")
    assert list(islice(tokyo.after(NOON), 2)) == [
        datetime(2026, 6, 2, 0, tzinfo=UTC),
        datetime(2026, 6, 3, 0, tzinfo=UTC),
    ]


def test_what_has_its_time_in_a_skipped_hour_happens_right_after_it() -> None:
    assert local("30 2 * * *", "2026-03-28", 2) == [
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
    ]


def test_what_has_its_time_in_a_doubled_hour_happens_once() -> None:
    assert local("30 2 * * *", "2026-10-24", 2) == [
        "2026-10-25T02:30+02:00",
        "2026-10-26T02:30+01:00",
    ]


def test_what_happens_every_hour_happens_in_both_halves_of_a_doubled_one() -> None:
    at = [tick[11:] for tick in local("30 * * * *", "2026-10-24", 17)]
    assert at[-3:] == ["02:30+02:00", "02:30+01:00", "03:30+01:00"]


def test_a_tick_that_is_seen_at_once_is_carried_out_whatever_the_policy() -> None:
    for misfire in Misfire:
        due = schedule(misfire=misfire).missed_or_due(NOON, HOURLY[1] + LATE / 2)
        assert due == ([HOURLY[1]], HOURLY[1] + LATE / 2)


@pytest.mark.parametrize(
    ("misfire", "made_up_for"),
    [(Misfire.SKIP, []), (Misfire.LATEST, HOURLY[3:4]), (Misfire.ALL, HOURLY[1:4])],
)
def test_missed_ticks_go_by_the_policy(misfire: Misfire, made_up_for: list[datetime]) -> None:
    now = HOURLY[3] + timedelta(minutes=30)
    assert schedule(misfire=misfire).missed_or_due(NOON, now) == (made_up_for, now)


def test_what_is_due_now_makes_up_for_what_was_missed() -> None:
    now = HOURLY[4] + timedelta(seconds=1)
    due, _ = schedule(misfire=Misfire.LATEST).missed_or_due(NOON, now)
    assert due == [HOURLY[4]]


def test_many_missed_ticks_are_made_up_for_a_number_at_a_time_and_none_is_left_out() -> None:
    every = schedule("* * * * *", misfire=Misfire.ALL)
    now, last, seen = NOON + timedelta(hours=4), NOON, list[datetime]()
    while last < now:
        due, last = every.missed_or_due(last, now)
        assert len(due) <= MOST_AT_ONCE
        seen += due
    assert seen == [NOON + timedelta(minutes=minute) for minute in range(1, 241)]


def test_after_years_the_latest_tick_is_found_without_reading_all_of_them() -> None:
    each_second = schedule("* * * * * *", misfire=Misfire.LATEST)
    now = NOON.replace(microsecond=500_000)
    due, _ = each_second.missed_or_due(NOON - timedelta(days=3_650), now)
    assert due[-1] == NOON
    yearly = schedule("0 0 1 1 *", misfire=Misfire.LATEST)
    assert yearly.missed_or_due(NOON - timedelta(days=3_650), now)[0] == [
        datetime(2026, 1, 1, tzinfo=UTC)
    ]


@pytest.mark.parametrize(
    ("cron", "zone", "says"),
    [
        ("0 25 * * *", "UTC", "test: '0 25 \\* \\* \\*' is no time"),
        ("every day", "UTC", "is no time"),
        ("0 0 31 2 *", "UTC", "is no time"),
        ("0 3 * * *", "Europe/Atlantis", "test: there is no time zone 'Europe/Atlantis'"),
    ],
)
def test_what_would_never_tick_is_refused_by_name_where_it_is_written(
    cron: str, zone: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        schedule(cron, zone)


def test_two_schedules_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two schedules have one name: test"):
        Timetable([schedule(), schedule("0 3 * * *")])


def test_the_schedules_of_the_flow_make_a_timetable() -> None:
    Timetable(schedules.ALL)
