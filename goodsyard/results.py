"""Finished jobs, read through Redis: repeated reads spare Postgres, and none is ever out of date.

Only jobs that can't change any more are kept (a dead one may be replayed), so a copy is as good as
the row. Without Redis each read costs its query, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import redis.asyncio
from pydantic import TypeAdapter

from goodsyard.breaker import Breaker
from goodsyard.database import Sessions
from goodsyard.job import JobState
from goodsyard.jobs import Attempt, JobView, attempts_of, read_job

TTL_SECONDS = 300
"""How long a finished job is worth Redis's memory: results are asked for soon or hardly ever."""

_NEVER_CHANGES = frozenset({JobState.SUCCEEDED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job with its runs that did not succeed."""

    job: JobView
    failures: Sequence[Attempt]


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
            return None if job is None else JobReport(job, await attempts_of(tx, job_id))
