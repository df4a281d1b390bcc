"""What holds the jobs of a kind back, over the whole cluster: a rate, a concurrency, a penalty.

A limit is a row by the kind's name, changed while everything runs; relays follow within a second.
How it is kept, ``goodsyard.limited`` says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract, Rate

_DECLARE = text("""
    INSERT INTO goodsyard.job_limit (name, per_second, burst, concurrency)
    VALUES (:name, :per_second, :burst, :concurrency)
    ON CONFLICT (name) DO NOTHING
""")

_SET_RATE = text("""
    INSERT INTO goodsyard.job_limit (name, per_second, burst) VALUES (:name, :per_second, :burst)
    ON CONFLICT (name) DO UPDATE SET per_second = excluded.per_second, burst = excluded.burst
""")

_SET_CONCURRENCY = text("""
    INSERT INTO goodsyard.job_limit (name, concurrency) VALUES (:name, :most)
    ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency
""")

_FORGET_BUCKETS = text("DELETE FROM goodsyard.limit_bucket WHERE name = :name")

# The later one stands: of many calls that were refused, each asks for a time of its own.
_PENALISE = text("""
    INSERT INTO goodsyard.job_limit AS l (name, penalised_until)
    VALUES (:name, now() + make_interval(secs => :seconds))
    ON CONFLICT (name) DO UPDATE
       SET penalised_until = greatest(l.penalised_until, excluded.penalised_until)
""")

_SET_PENALTY = text("""
    INSERT INTO goodsyard.job_limit (name, penalised_until)
    VALUES (:name, now() + make_interval(secs => nullif(CAST(:seconds AS float8), 0)))
    ON CONFLICT (name) DO UPDATE SET penalised_until = excluded.penalised_until
""")

_KEYS = text("SELECT DISTINCT limit_key FROM goodsyard.job WHERE id = ANY(CAST(:jobs AS uuid[]))")

_PENALISE_KEY = text("""
    INSERT INTO goodsyard.limit_bucket AS b (name, key, tokens, penalised_until)
    SELECT name, :key, burst, now() + make_interval(secs => :seconds)
      FROM goodsyard.job_limit WHERE name = :name AND per_second IS NOT NULL
    ON CONFLICT (name, key) DO UPDATE
       SET penalised_until = greatest(b.penalised_until, excluded.penalised_until)
    RETURNING true
""")

_PARDON = text("""
    UPDATE goodsyard.job_limit SET penalised_until = NULL WHERE penalised_until <= now()
""")

_FORGET_FULL = text("""
    DELETE FROM goodsyard.limit_bucket b USING goodsyard.job_limit l
     WHERE l.name = b.name AND b.ts < now() - interval '1 minute'
       AND coalesce(b.penalised_until <= now(), true)
       AND coalesce(b.tokens + l.per_second * extract(epoch FROM now() - b.ts) >= l.burst, true)
""")

_LIST = text("""
    SELECT l.name, l.per_second, l.burst, l.concurrency, l.penalised_until,
           nullif(greatest(now(), l.penalised_until, b.penalised_until,
                    b.ts + make_interval(secs => greatest(0, 1 - b.tokens) / l.per_second)), now())
      FROM goodsyard.job_limit l
      LEFT JOIN goodsyard.limit_bucket b ON b.name = l.name AND b.key = ''
     WHERE l.holds
     ORDER BY l.name
""")


# Counting those before it ends at what a page can wait for: some 2 ms.
_STARTS_AT = text("""
    SELECT greatest(j.run_at, now(), l.penalised_until, b.penalised_until,
                    coalesce(b.ts, now()) + make_interval(secs =>
                        greatest(0, before.jobs + 1 - coalesce(b.tokens, l.burst)) / l.per_second))
      FROM goodsyard.job j
      JOIN goodsyard.job_limit l ON l.name = j.kind
       AND (l.per_second IS NOT NULL OR l.penalised_until > now())
      LEFT JOIN goodsyard.limit_bucket b ON b.name = l.name AND b.key = j.limit_key
     CROSS JOIN LATERAL (
           SELECT count(*) AS jobs
             FROM (SELECT FROM goodsyard.job o
                    WHERE o.state = 'waiting' AND o.waits_for = 0 AND o.kind = j.kind
                      AND o.tenant = j.tenant AND o.limit_key = j.limit_key
                      AND o.slot_key = j.slot_key AND o.run_at <= now()
                      AND (o.priority, o.run_at) < (j.priority, j.run_at)
                    LIMIT 10000) AS earlier) AS before
     WHERE j.id = :job AND j.state = 'waiting' AND j.waits_for = 0
""")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in force.

    Args:
        name: the kind it holds for.
        per_second: jobs a second, for each key by itself; ``None`` is no rate.
        burst: how many may start at once after a pause.
        concurrency: how many may be under way, for each key by itself; ``None`` is any number.
        penalised_until: no job starts before, since a provider asked for it.
        free_at: when the next job may start, if not now; as far as the rate goes, and where that
            has a key, for the jobs whose key is empty.
    """

    name: str
    per_second: float | None
    burst: float | None
    concurrency: int | None
    penalised_until: datetime | None
    free_at: datetime | None


async def declare(tx: AsyncSession, contracts: Iterable[type[Contract]]) -> None:
    """Insert the limits that policies start with; one that exists was perhaps changed: it stays."""
    for contract in contracts:
        rate, concurrency = contract.policy.limit, contract.policy.concurrency
        if rate is not None or concurrency is not None:
            parameters = {"concurrency": None if concurrency is None else concurrency.most}
            await tx.execute(_DECLARE, parameters | _parameters(contract.kind, rate))


async def set_limit(tx: AsyncSession, name: str, limit: Rate | None) -> None:
    """Set the rate of ``name`` from now on, or lift it; a concurrency stays as it is.

    Of ``limit``, key and cost don't matter here: they are the policy's, and stored with each job.
    """
    await tx.execute(_SET_RATE, _parameters(name, limit))
    if limit is None:
        await tx.execute(_FORGET_BUCKETS, {"name": name})


async def set_concurrency(tx: AsyncSession, name: str, most: int | None) -> None:
    """Set how many jobs of ``name`` may be under way, or lift that; a rate stays as it is."""
    await tx.execute(_SET_CONCURRENCY, {"name": name, "most": most})


async def penalise(tx: AsyncSession, name: str, seconds: float, *, key: str | None = None) -> None:
    """Start no job of ``name`` for so long: a provider said that it is asked too often.

    Jobs that are on their way already go on. A longer penalty isn't shortened.

    Args:
        tx: the transaction; it holds the limit's row to its end, so nothing else belongs behind.
        name: the kind.
        seconds: how long.
        key: of the rate, if only jobs of this key are meant; where the kind has no rate by now, all
            are.
    """
    parameters: dict[str, object] = {"name": name, "seconds": seconds}
    if key is None or not await tx.scalar(_PENALISE_KEY, parameters | {"key": key}):
        await tx.execute(_PENALISE, parameters)


async def penalise_for(tx: AsyncSession, name: str, jobs: Collection[UUID], seconds: float) -> None:
    """Penalise ``name`` on account of jobs of it: where its rate has a key, their keys alone."""
    for key in sorted(await tx.scalars(_KEYS, {"jobs": list(jobs)})):
        await penalise(tx, name, seconds, key=key or None)


async def set_penalty(tx: AsyncSession, name: str, seconds: float) -> None:
    """Set how long no job of ``name`` may start, whatever was set before; 0 pardons."""
    await tx.execute(_SET_PENALTY, {"name": name, "seconds": seconds})


async def pardon(tx: AsyncSession) -> None:
    """Lift the penalties of kinds that are over."""
    await tx.execute(_PARDON)


async def forget_full(tx: AsyncSession) -> None:
    """Delete the buckets that are full: whoever has none has a full one."""
    await tx.execute(_FORGET_FULL)


async def list_limits(tx: AsyncSession) -> list[Limit]:
    """Return all limits in force."""
    return [Limit(*row) for row in await tx.execute(_LIST)]


async def starts_at(tx: AsyncSession, job: UUID) -> datetime | None:
    """Return when a waiting job may start by its rate and those before it in its lane: an estimate.

    ``None`` for a job that doesn't wait or that no rate or penalty holds back. Where several lanes
    share a bucket, it is too early by what the others take.
    """
    estimate: datetime | None = await tx.scalar(_STARTS_AT, {"job": job})
    return estimate


def _parameters(name: str, rate: Rate | None) -> dict[str, object]:
    return {
        "name": name,
        "per_second": None if rate is None else rate.per_second,
        "burst": None if rate is None else rate.capacity,
    }
