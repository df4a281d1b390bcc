"""When an endpoint is spared: after failures in a row only one call asks whether it is back.

What a failing endpoint isn't asked costs no worker's time and no job an attempt; what failed for
days isn't asked any more until its owner says so.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

TRIP_AFTER = 5
"""Failures in a row after which an endpoint is spared."""

PAUSE_SECONDS = (10.0, 600.0)
"""How long it is spared the first time, doubled each time that it fails again, and at the most."""

PROBE_SECONDS = 30.0
"""How long everybody else waits for the one call that tries: longer than a call may take."""

DISABLE_AFTER = timedelta(days=5)
"""Failures over this long without one success disable an endpoint. The Standard Webhooks
specification asks for it after "a substantial period of time"."""

GONE = "it answered 410 Gone"
FAILING = f"every call has failed for {DISABLE_AFTER.days} days"


class Health(NamedTuple):
    """How an endpoint has answered lately; as new until its first failure."""

    failures: int = 0
    """In a row."""
    failing_since: datetime | None = None
    trips: int = 0
    """How often in a row it has failed so that it was spared."""
    spared_until: datetime | None = None
    disabled_at: datetime | None = None
    disabled_reason: str | None = None


class Tally(NamedTuple):
    """What came of some calls to an endpoint."""

    delivered: int = 0
    failed: int = 0
    gone: bool = False
    probed: bool = False
    """Whether one of them was the one that tried."""


def after(health: Health, tally: Tally, now: datetime) -> Health:
    """Return an endpoint's health after some calls."""
    if tally.gone:
        return health._replace(disabled_at=health.disabled_at or now, disabled_reason=GONE)
    if tally.delivered:
        return Health(disabled_at=health.disabled_at, disabled_reason=health.disabled_reason)
    if not tally.failed:
        return health
    since = health.failing_since or now
    worse = health._replace(failures=health.failures + tally.failed, failing_since=since)
    if now - since >= DISABLE_AFTER and health.disabled_at is None:
        return worse._replace(disabled_at=now, disabled_reason=FAILING)
    is_spared = health.spared_until is not None and health.spared_until > now
    if worse.failures < TRIP_AFTER or (is_spared and not tally.probed):
        return worse  # calls that were out already when it was first spared say nothing new
    trips = health.trips + 1
    return worse._replace(trips=trips, spared_until=now + timedelta(seconds=_pause(trips)))


def _pause(trips: int) -> float:
    first, most = PAUSE_SECONDS
    return min(most, first * 2.0 ** min(trips - 1, 16))
