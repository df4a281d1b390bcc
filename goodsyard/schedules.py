"""Jobs by the clock: each tick of a schedule happens once, whichever relay sees it first.

A schedule is code; what is kept of it is up to when its ticks are decided. The ticks that are due,
their jobs and that moment are one commit, under the lock of the schedule's row; the key of
``schedule_tick`` is the backstop. Expressions are read by cronsim, as Debian's cron would: what has
its time in an hour that a zone skips in spring happens right after it, and once in the hour that
the zone has twice in autumn.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from cronsim import CronSim, CronSimError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract
from goodsyard.database import Sessions
from goodsyard.submit import Staged, stage

LATE = timedelta(minutes=1)
"""How late a tick may be seen and still be no missed one: relays are restarted now and then."""

MOST_AT_ONCE = 100
"""Missed ticks that one transaction makes up for; the next second's goes on."""

_LOOK_BACK = [timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=36_600)]

KEPT_DAYS = 90
"""How long it is known which ticks there were."""

_BEGIN = text("""
    INSERT INTO goodsyard.schedule (name, last_tick)
    SELECT name, now() FROM unnest(CAST(:names AS text[])) AS s(name)
    ON CONFLICT (name) DO NOTHING
""")

_STANDING = text("""
    SELECT name, last_tick, paused FROM goodsyard.schedule
     WHERE name = ANY(CAST(:names AS text[]))
""")

# SKIP LOCKED: another relay is at it, and has done it by the next look.
_LOCK = text("""
    SELECT last_tick, statement_timestamp() FROM goodsyard.schedule
     WHERE name = :name AND NOT paused FOR UPDATE SKIP LOCKED
""")

_TICK = text("""
    INSERT INTO goodsyard.schedule_tick (schedule, tick, jobs) VALUES (:name, :tick, :jobs)
""")

_DECIDED = text("UPDATE goodsyard.schedule SET last_tick = :tick WHERE name = :name")

_PAUSE = text("""
    INSERT INTO goodsyard.schedule (name, last_tick, paused) VALUES (:name, now(), :paused)
    ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
""")

_LAST = text("""
    SELECT DISTINCT ON (schedule) schedule, tick, jobs FROM goodsyard.schedule_tick
     WHERE schedule = ANY(CAST(:names AS text[]))
     ORDER BY schedule, tick DESC
""")

_FORGET = text("""
    DELETE FROM goodsyard.schedule_tick WHERE tick < now() - make_interval(days => :days)
""")

_log = structlog.get_logger(__name__)


class Misfire(StrEnum):
    """What becomes of ticks that nobody was there for, or that came while the schedule paused."""

    SKIP = "skip"
    """They are given up."""
    LATEST = "latest"
    """The last of them is made up for."""
    ALL = "all"
    """Each is made up for, in their order."""


Due = Callable[[AsyncSession, datetime], Awaitable[Iterable[tuple[int, Contract]]]]
"""Says what is to be done at a tick: for which tenants, which jobs."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Something to be done from time to time.

    Args:
        name: stable: what is kept is kept under it.
        cron: five fields, as in ``"0 3 * * *"``; six begin with the seconds.
        due: what is to be done. Its jobs are staged in the transaction that it is given.
        zone: in which the expression is meant, by its name in the IANA database.
        misfire: what becomes of ticks that were missed.
        overlap: whether a tenant's job is staged even if that of an earlier tick isn't over.

    Raises:
        ValueError: there is no such zone, or the expression is none.
    """

    name: str
    cron: str
    due: Due
    zone: str = "UTC"
    misfire: Misfire = Misfire.LATEST
    overlap: bool = False

    def __post_init__(self) -> None:
        """Refuse what would never tick, where it is written."""
        try:
            next(CronSim(self.cron, datetime.now(ZoneInfo(self.zone))))
        except (CronSimError, StopIteration) as error:
            message = f"schedule {self.name}: {self.cron!r} is no time: {error}"
            raise ValueError(message) from error
        except (ZoneInfoNotFoundError, ValueError) as error:
            message = f"schedule {self.name}: there is no time zone {self.zone!r}"
            raise ValueError(message) from error

    def after(self, moment: datetime) -> Iterable[datetime]:
        """Return the ticks after ``moment``, without end, in UTC."""
        return (tick.astimezone(UTC) for tick in CronSim(self.cron, self._local(moment)))

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.zone))

    def missed_or_due(self, last: datetime, now: datetime) -> tuple[list[datetime], datetime]:
        """Return the ticks to be carried out by ``now``, and up to when all are decided then.

        Args:
            last: up to when they were decided before.
            now: by the database's clock.
        """
        if self.misfire is Misfire.ALL:
            passed = list(islice(self._between(last, now), MOST_AT_ONCE))
            return passed, passed[-1] if len(passed) == MOST_AT_ONCE else now
        in_time = list(self._between(max(last, now - LATE), now))
        if in_time or self.misfire is Misfire.SKIP:
            return in_time, now
        return self._latest(last, now), now

    def _latest(self, last: datetime, now: datetime) -> list[datetime]:
        """Return the last tick there was, if any; no more are read than that takes."""
        for back in _LOOK_BACK:
            passed = deque(self._between(max(last, now - back), now), maxlen=1)
            if passed or now - back <= last:
                return list(passed)
        return []

    def _between(self, last: datetime, now: datetime) -> Iterable[datetime]:
        return takewhile(lambda tick: tick <= now, self.after(last))


@dataclass(frozen=True, slots=True)
class Standing:
    """What is kept of a schedule.

    Args:
        decided_until: up to when its ticks are decided; ``None`` if no relay has seen it yet.
        paused: whether it is on hold.
        last_tick: the last that was carried out, if one was lately.
        last_jobs: how many jobs were staged then.
    """

    decided_until: datetime | None = None
    paused: bool = False
    last_tick: datetime | None = None
    last_jobs: int | None = None


class Timetable:
    """The schedules of one relay: knows the next tick of each, and writes nothing before."""

    def __init__(self, schedules: Collection[Schedule]) -> None:
        """Look after ``schedules``.

        Raises:
            ValueError: two have the same name.
        """
        names = Counter(schedule.name for schedule in schedules)
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            message = f"two schedules have one name: {', '.join(twice)}"
            raise ValueError(message)
        self._schedules = {schedule.name: schedule for schedule in schedules}
        self._next: dict[str, datetime] = {}

    async def carry_out(self, sessions: Sessions, now: datetime) -> set[str]:
        """Stage the jobs of the ticks that are due, each schedule's in a transaction of its own.

        Args:
            sessions: where to.
            now: by the database's clock.

        Returns:
            The kinds of which a job was staged.
        """
        if self._next.keys() != self._schedules.keys():
            await self._begin(sessions)
        kinds: set[str] = set()
        for name, tick in self._next.items():
            if tick <= now:
                try:
                    kinds |= await self._tick(sessions, self._schedules[name])
                except Exception:  # noqa: BLE001 - one schedule's error keeps no other from its tick
                    _log.error("schedule.failed", schedule=name, exc_info=True)
        return kinds

    async def _begin(self, sessions: Sessions) -> None:
        names = {"names": list(self._schedules)}
        async with sessions.begin() as tx:
            await tx.execute(_BEGIN, names)
            rows = (await tx.execute(_STANDING, names)).all()
        for name, last, _ in rows:
            self._next[name] = _next(self._schedules[name], last)

    async def _tick(self, sessions: Sessions, schedule: Schedule) -> set[str]:
        kinds: set[str] = set()
        async with sessions.begin() as tx:
            row = (await tx.execute(_LOCK, {"name": schedule.name})).one_or_none()
            if row is None:
                return kinds
            last, now = row
            ticks, decided = schedule.missed_or_due(last, now)
            for tick in ticks:
                kinds |= await _stage(tx, schedule, tick)
            if decided != last:
                await tx.execute(_DECIDED, {"name": schedule.name, "tick": decided})
        self._next[schedule.name] = _next(schedule, decided)
        return kinds


async def _stage(tx: AsyncSession, schedule: Schedule, tick: datetime) -> set[str]:
    unique_key = None if schedule.overlap else f"schedule:{schedule.name}"
    jobs = [
        Staged(tenant, contract, unique_key=unique_key)
        for tenant, contract in await schedule.due(tx, tick)
    ]
    staged = await stage(tx, jobs)
    await tx.execute(_TICK, {"name": schedule.name, "tick": tick, "jobs": len(staged)})
    return {job.contract.kind for job in jobs if job.id in staged}


def _next(schedule: Schedule, last: datetime) -> datetime:
    return next(iter(schedule.after(last)))


def next_ticks(schedule: Schedule, moment: datetime, most: int) -> list[datetime]:
    """Return the first ``most`` ticks after ``moment``."""
    return list(islice(schedule.after(moment), most))


async def standings(tx: AsyncSession, names: Sequence[str]) -> Mapping[str, Standing]:
    """Return what is kept of schedules; nothing of those that no relay has seen yet."""
    last = {row.schedule: row for row in await tx.execute(_LAST, {"names": list(names)})}
    return {
        name: Standing(
            decided_until,
            paused,
            last[name].tick if name in last else None,
            last[name].jobs if name in last else None,
        )
        for name, decided_until, paused in await tx.execute(_STANDING, {"names": list(names)})
    }


async def pause_schedule(tx: AsyncSession, name: str, *, paused: bool) -> None:
    """Hold a schedule back, or let it go: what it missed goes by its misfire policy then."""
    await tx.execute(_PAUSE, {"name": name, "paused": paused})


async def forget_ticks(tx: AsyncSession) -> None:
    """Delete what is known of ticks older than ``KEPT_DAYS``."""
    await tx.execute(_FORGET, {"days": KEPT_DAYS})
