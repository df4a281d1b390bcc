"""Finished jobs, read through Redis: repeated reads spare Postgres, and none is ever out of date.

Only jobs that can't change any more are kept (a dead one may be replayed), so a copy is as good as
the row. Without Redis each read costs its query, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import redis.asyncio
from pydantic import TypeAdapter

from goodsyard.breaker import Breaker
from goodsyard.database import Sessions
from goodsyard.job import JobState
from goodsyard.jobs import Attempt, JobView, attempts_of, read_job
from goodsyard.limits import starts_at

TTL_SECONDS = 300
"""How long a finished job is worth Redis's memory: results are asked for soon or hardly ever."""

_NEVER_CHANGES = frozenset({JobState.SUCCEEDED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job with its runs that did not succeed.

    Args:
        job: the job.
        failures: those runs.
        estimated_start: when a limit may let it go, if it waits for that.
    """

    job: JobView
    failures: Sequence[Attempt]
    estimated_start: datetime | None = None


_as_json = TypeAdapter(JobReport)


class Results:
    """Reads jobs, finished ones from Redis where it has them."""

    def __init__(self, sessions: Sessions, client: redis.asyncio.Redis, breaker: Breaker) -> None:
        """Read from ``sessions`` through ``client``."""
        self._sessions = sessions
        self._redis = client
        self._breaker = breaker

    async def read(self, tenant: int, job_id: UUID) -> JobReport | None:
        """Return a job of the tenant, or ``None`` if there is none."""
        key = f"goodsyard:result:{job_id}"
        kept = await self._breaker.ask(lambda: self._redis.get(key), None)
        if kept is not None:
            copy = _as_json.validate_json(kept)
            return copy if copy.job.tenant == tenant else None
        report = await self._read_row(tenant, job_id)
        if report is not None and report.job.state in _NEVER_CHANGES:
            value = _as_json.dump_json(report)
            await self._breaker.ask(lambda: self._redis.set(key, value, ex=TTL_SECONDS), None)
        return report

    async def _read_row(self, tenant: int, job_id: UUID) -> JobReport | None:
        async with self._sessions.begin() as tx:
            job = await read_job(tx, tenant, job_id)
            if job is None:
                return None
            waits = job.state is JobState.WAITING
            estimate = await starts_at(tx, job_id) if waits else None
            return JobReport(job, await attempts_of(tx, job_id), estimate)
