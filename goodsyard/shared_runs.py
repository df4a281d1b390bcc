"""Equal requests share a run: while it is under way, and its result until that has expired.

One row a key names the job that stands for it. Who finds one that does only looks; who is to
start a run locks the row, so of any number of equal requests in any number of processes one does.
Whether a job still stands for its key follows from its own row, the policy and the database's
clock: nothing has to be written when a job ends, and none that dies or is cancelled keeps its
key. To invalidate is to delete the row: a run that is under way then goes on, and is shared with
nobody who comes later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Cache
from goodsyard.job import JobState
from goodsyard.submit import Staged, live_twin, stage, stage_unique

ENDED = frozenset({JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED})
"""States of jobs that no longer hold a unique key, unless a request says so."""

_MARGIN_SECONDS = 86_400.0
"""How much longer than its result a key is kept: a run may take its time."""

REST_SECONDS = 1.0
"""The least between a refresh that came to nothing and the next: many who ask make no storm."""

_REFUSED = "refused"

_TAKE = text("""
    INSERT INTO goodsyard.shared_run (tenant, kind, key, job_id, keep_until)
    VALUES (:tenant, :kind, :key, :job, now() + make_interval(secs => :keep))
    ON CONFLICT (tenant, kind, key) DO NOTHING
    RETURNING true
""")

_SEE = text("""
    SELECT job_id, refresh_id FROM goodsyard.shared_run
     WHERE tenant = :tenant AND kind = :kind AND key = :key
""")

_LOCK = text(f"{_SEE.text} FOR UPDATE")

_RUNS = text("""
    SELECT id, state, reason, extract(epoch FROM now() - finished_at)::float8,
           extract(epoch FROM now() - created_at)::float8
      FROM goodsyard.job WHERE tenant = :tenant AND id = ANY(CAST(:ids AS uuid[]))
     UNION ALL
    SELECT id, state, reason, extract(epoch FROM now() - finished_at)::float8,
           extract(epoch FROM now() - created_at)::float8
      FROM goodsyard.job_done WHERE tenant = :tenant AND id = ANY(CAST(:ids AS uuid[]))
""")

_POINT = text("""
    UPDATE goodsyard.shared_run
       SET job_id = :job, refresh_id = :refresh,
           keep_until = greatest(keep_until, now() + make_interval(secs => :keep))
     WHERE tenant = :tenant AND kind = :kind AND key = :key
""")

_INVALIDATE = text("""
    DELETE FROM goodsyard.shared_run
     WHERE tenant = :tenant AND kind = :kind AND key ^@ :prefix
       AND (CAST(:key AS text) IS NULL OR key = CAST(:key AS text))
""")

_FORGET = text("""
    DELETE FROM goodsyard.shared_run
     WHERE ctid = ANY(ARRAY(
           SELECT r.ctid FROM goodsyard.shared_run r
            WHERE r.keep_until < now()
              AND NOT EXISTS (SELECT FROM goodsyard.job j
                               WHERE j.tenant = r.tenant AND j.id IN (r.job_id, r.refresh_id)
                                 AND j.state IN ('waiting', 'dispatched', 'running'))
            LIMIT 10000 FOR UPDATE OF r SKIP LOCKED))
""")

_CACHED, _UNIQUE = "cache:", "unique:"


class Found(StrEnum):
    """What became of a request for a run."""

    MISS = "miss"
    """It began one."""
    UNDER_WAY = "under way"
    """An equal one was under way already."""
    HIT = "hit"
    """An earlier one stands for it."""
    STALE = "stale"
    """An earlier one whose result has expired, while another makes the next."""


class Shared(NamedTuple):
    """The job that stands for a request.

    Args:
        job: which.
        found: how it came to.
        fresh_for: seconds for which its result stands from now on, below none if it is stale;
            ``None`` if it isn't over, or if no policy says so.
    """

    job: UUID
    found: Found
    fresh_for: float | None = None


class Run(NamedTuple):
    """A job as it stands: ``ended`` and ``begun`` are how many seconds ago it did."""

    id: UUID
    state: JobState
    reason: str | None
    ended: float | None
    begun: float

    @property
    def live(self) -> bool:
        """Whether it isn't over."""
        return self.state not in ENDED


class Choice(NamedTuple):
    """What to do about a request, decided from the rows.

    Args:
        shared: what stands for it; ``None`` for a new run, which takes the key over.
        refresh: whether to begin a run that will take the key over once it has succeeded.
        latest: what stands for the key from now on, if nothing new does.
        pending: the run that will take it over.
    """

    shared: Shared | None
    refresh: bool = False
    latest: UUID | None = None
    pending: UUID | None = None


@dataclass(frozen=True, slots=True)
class Unique:
    """Which jobs stand for a later one with their unique key, besides those that aren't over.

    Args:
        states: of jobs that are over: succeeded, dead or cancelled.
        period: seconds from a job's acceptance in which it does.
    """

    states: Collection[JobState]
    period: float


def cache_key(staged: Staged) -> str:
    """Return what makes requests for a kind with a cache equal."""
    cache = staged.contract.policy.cache
    if cache is not None and cache.key is not None:
        said = str(cache.key(staged)).encode()
    else:
        payload = staged.contract.model_dump(mode="json")
        said = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    # The version: what an older contract's run found may be no answer to this one.
    return f"{_CACHED}{staged.contract.version}:{sha256(said).hexdigest()}"


def choose_cached(cache: Cache, latest: Run | None, refresh: Run | None) -> Choice:
    """Decide what stands for a request, by the policy."""
    if refresh is not None and refresh.state is JobState.SUCCEEDED:
        latest, refresh = refresh, None
    old = _result(cache, latest)
    if refresh is not None and old is not None and _rests(cache, refresh):
        return Choice(old, latest=latest and latest.id, pending=refresh.id)
    if refresh is not None and (standing := _standing(cache, refresh)) is not None:
        return Choice(old or standing, latest=latest and latest.id, pending=refresh.id)
    if latest is not None and (shared := old or _standing(cache, latest)) is not None:
        return Choice(shared, refresh=shared.found is Found.STALE, latest=latest.id)
    return Choice(None)


def _result(cache: Cache, run: Run | None) -> Shared | None:
    """Return a result that may still be given out."""
    if run is None or run.state is not JobState.SUCCEEDED or run.ended is None:
        return None
    fresh_for = cache.ttl - run.ended
    if fresh_for > 0:
        return Shared(run.id, Found.HIT, fresh_for)
    if -fresh_for < cache.stale_while_revalidate:
        return Shared(run.id, Found.STALE, fresh_for)
    return None


def _rests(cache: Cache, refresh: Run) -> bool:
    """Whether a refresh that came to nothing is too recent for the next."""
    return refresh.ended is not None and refresh.ended < max(cache.negative_ttl, REST_SECONDS)


def _standing(cache: Cache, run: Run) -> Shared | None:
    """Return a run that is under way, or was refused so lately that it isn't tried again."""
    if run.live:
        return Shared(run.id, Found.UNDER_WAY)
    if run.state is JobState.DEAD and run.reason == _REFUSED and run.ended is not None:
        fresh_for = cache.negative_ttl - run.ended
        return Shared(run.id, Found.HIT, fresh_for) if fresh_for > 0 else None
    return None


def choose_unique(unique: Unique, latest: Run | None) -> Choice:
    """Decide what stands for a request with a unique key."""
    if latest is None:
        return Choice(None)
    if latest.live:
        return Choice(Shared(latest.id, Found.UNDER_WAY), latest=latest.id)
    if latest.state in unique.states and latest.begun < unique.period:
        return Choice(Shared(latest.id, Found.HIT), latest=latest.id)
    return Choice(None)


async def stage_cached(tx: AsyncSession, staged: Staged) -> Shared:
    """Insert a job of a kind with a cache, unless an equal one stands for it.

    Args:
        tx: the transaction, in which equal requests wait for each other; commit it soon.
        staged: the job; a ``unique_key`` of its own counts for nothing.

    Raises:
        ValueError: its kind has no cache.
    """
    cache = staged.contract.policy.cache
    if cache is None:
        message = f"{staged.contract.kind} has no cache"
        raise ValueError(message)
    keep = cache.ttl + cache.negative_ttl + cache.stale_while_revalidate + _MARGIN_SECONDS
    place = _Place(tx, staged, cache_key(staged), keep)
    # Most find what stands for them: a lock each would have them commit one after the other.
    seen = await place.look()
    if seen is not None:
        choice = choose_cached(cache, *seen)
        if choice.shared is not None and not choice.refresh:
            return choice.shared
    while True:
        if await place.take():
            await stage(tx, [replace(staged, unique_key=None)])
            return Shared(staged.id, Found.MISS)
        held = await place.lock()
        if held is not None:
            break
    choice = choose_cached(cache, *held)
    if choice.shared is None:
        await place.point(staged.id, None)
    else:
        pending = staged.id if choice.refresh else choice.pending
        await place.point(choice.latest or choice.shared.job, pending)
    if choice.shared is None or choice.refresh:
        await stage(tx, [replace(staged, unique_key=None)])
    return choice.shared or Shared(staged.id, Found.MISS)


async def stage_once(tx: AsyncSession, staged: Staged, unique: Unique) -> Shared:
    """Insert a job, unless one with its ``unique_key`` is live, or stands for it by ``unique``.

    Args:
        tx: the transaction, in which requests with the same key wait for each other.
        staged: the job.
        unique: which others stand for it. Only those that were inserted by this function do.
    """
    place = _Place(tx, staged, f"{_UNIQUE}{staged.unique_key}", unique.period + _MARGIN_SECONDS)
    while not await place.take():
        held = await place.lock()
        if held is not None:
            shared = choose_unique(unique, held[0]).shared
            if shared is not None:
                # A plain request may have staged another since: the live one is the answer.
                live = await live_twin(tx, staged) if shared.found is Found.HIT else None
                await place.point(shared.job, None)
                return shared if live is None else Shared(live, Found.UNDER_WAY)
            break
    job = await stage_unique(tx, staged)  # a live one may have come without states and period
    await place.point(job, None)
    return Shared(job, Found.MISS if job == staged.id else Found.UNDER_WAY)


async def invalidate(
    tx: AsyncSession, tenant: int, kind: str, *, like: Staged | None = None
) -> int:
    """Have the next requests for a kind run anew, whatever is known or under way.

    Args:
        tx: the transaction; the caller commits.
        tenant: whose results.
        kind: of which.
        like: only what stands for this job.

    Returns:
        How many results, or runs under way, no longer stand for anything.
    """
    key = None if like is None else cache_key(like)
    parameters = {"tenant": tenant, "kind": kind, "prefix": _CACHED, "key": key}
    result = await tx.execute(_INVALIDATE, parameters)
    return result.rowcount  # type: ignore[attr-defined, no-any-return]  # a CursorResult: a DELETE


async def forget_expired(tx: AsyncSession) -> None:
    """Delete a batch of keys that nothing stands for any more."""
    await tx.execute(_FORGET)


class _Place:
    """A key's row, in one transaction."""

    def __init__(self, tx: AsyncSession, staged: Staged, key: str, keep: float) -> None:
        self._tx = tx
        self._tenant = staged.tenant
        self._whose: Mapping[str, object] = {
            "tenant": staged.tenant,
            "kind": staged.contract.kind,
            "key": key,
        }
        self._job = staged.id
        self._keep = keep

    async def take(self) -> bool:
        """Have our job stand for the key, if none does; an equal request is waited for."""
        parameters = {**self._whose, "job": self._job, "keep": self._keep}
        return await self._tx.scalar(_TAKE, parameters) is not None

    async def look(self) -> tuple[Run | None, Run | None] | None:
        """Return the key's runs; ``None`` if it has no row."""
        return await self._runs(_SEE)

    async def lock(self) -> tuple[Run | None, Run | None] | None:
        """Lock the row and return its runs; ``None`` if it was deleted meanwhile."""
        return await self._runs(_LOCK)

    async def _runs(self, query: TextClause) -> tuple[Run | None, Run | None] | None:
        row = (await self._tx.execute(query, self._whose)).one_or_none()
        if row is None:
            return None
        ids = [job for job in row if job is not None]
        rows = await self._tx.execute(_RUNS, {"tenant": self._tenant, "ids": ids})
        runs = {one[0]: Run(one[0], JobState(one[1]), *one[2:]) for one in rows}
        return runs.get(row.job_id), runs.get(row.refresh_id)

    async def point(self, job: UUID, refresh: UUID | None) -> None:
        """Have ``job`` stand for the key, and ``refresh`` once it has succeeded."""
        parameters = {**self._whose, "job": job, "refresh": refresh, "keep": self._keep}
        await self._tx.execute(_POINT, parameters)
