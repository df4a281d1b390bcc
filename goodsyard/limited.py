"""Dispatches what a limit allows and no more, however many relays draw on it.

All of it is one transaction under the lock of the limit's row: look at the lanes with what is left
in their buckets and under their concurrency, share it out, dispatch, write down what is left. How
many are under way is counted from the jobs themselves, so a place can't leak. What a rate let go
lapses after ``LAPSE_SECONDS``: a worker that was stopped or slow in between hands it back unspent.
Its tokens are spent even so, or a worker that wakes up could add a second burst to the first. So in
every window there are no more starts than rate * (window + ``LAPSE_SECONDS``) + burst.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import lanes
from goodsyard.allotment import Allowance, Weighed, allot
from goodsyard.contracts import Contract
from goodsyard.database import fetch
from goodsyard.dispatch import DISPATCH_SECONDS, DISPATCHED, Dispatched, in_turn
from goodsyard.lanes import BEGINNING, WITH_LANES, Lane, first_of

LAPSE_SECONDS = 1.0
"""How long a job that a rate let go may take to start; then it needs another grant."""

_PASSES = 3
"""How often what a lane didn't use is offered to the others, in one batch."""

_LOCK = text("""
    SELECT per_second, burst, concurrency,
           CASE WHEN penalised_until > now()
                THEN extract(epoch FROM penalised_until - now())::float8 END
      FROM goodsyard.job_limit WHERE name = :kind AND holds FOR UPDATE
""")

# What is under way is a second or two of work, looked up by its deadlines.
_LOOK = text(f"""
    {WITH_LANES},
    under_way AS MATERIALIZED (
        SELECT slot_key, count(*) AS jobs FROM goodsyard.job
         WHERE state IN ('dispatched', 'running') AND kind = :kind AND :counted
         GROUP BY slot_key)
    SELECT lane.tenant, lane.limit_key, lane.slot_key, lane.number, lane.weight::float8,
           coalesce(under_way.jobs, 0),
           least(:burst, coalesce(bucket.tokens + :per_second * greatest(0,
                 extract(epoch FROM statement_timestamp() - bucket.ts)::float8), :burst)),
           extract(epoch FROM bucket.penalised_until - statement_timestamp())::float8,
           statement_timestamp()
      FROM weighed AS lane
      LEFT JOIN goodsyard.limit_bucket AS bucket
             ON bucket.name = :kind AND bucket.key = lane.limit_key
      LEFT JOIN under_way ON under_way.slot_key = lane.slot_key
     ORDER BY lane.number
""")  # noqa: S608 - what is put in is SQL of our own

# A job starts when there are tokens for it, or a whole burst; then the bucket goes below none.
_START = text(f"""
    WITH due AS MATERIALIZED (
        SELECT priced.id
          FROM unnest(CAST(:tenants AS int[]), CAST(:limit_keys AS text[]),
                      CAST(:slot_keys AS text[]), CAST(:mosts AS int[]), CAST(:tokens AS float8[]))
               AS lane(tenant, limit_key, slot_key, most, tokens)
         CROSS JOIN LATERAL (
               SELECT id, coalesce(cost, 1) AS cost,
                      sum(coalesce(cost, 1)) OVER (
                          ORDER BY priority, run_at, id ROWS UNBOUNDED PRECEDING) AS up_to_it
                 FROM ({first_of("lane", "lane.most")}) AS first) AS priced
         WHERE lane.tokens - (priced.up_to_it - priced.cost) >= least(priced.cost, :burst))
    UPDATE goodsyard.job
       SET state = 'dispatched', fence = fence + 1,
           start_by = clock_timestamp() + make_interval(secs => CAST(:lapse_seconds AS float8)),
           deadline = now() + make_interval(secs => :seconds * power(2, least(lost, 6)))
     WHERE id = ANY(ARRAY(SELECT id FROM due))
    RETURNING {DISPATCHED}, limit_key, slot_key, coalesce(cost, 1)::float8
""")  # noqa: S608 - what is put in is SQL of our own

_SPEND = text("""
    INSERT INTO goodsyard.limit_bucket AS b (name, key, tokens, ts)
    SELECT :kind, key, tokens, :at
      FROM unnest(CAST(:keys AS text[]), CAST(:tokens AS float8[])) AS left_over(key, tokens)
    ON CONFLICT (name, key) DO UPDATE
       SET tokens = excluded.tokens, ts = greatest(b.ts, excluded.ts)
""")


class LimitedBatch(NamedTuple):
    """What was dispatched.

    Args:
        jobs: those, as ``in_turn`` has them.
        held_for: seconds until more may be worth a look, where the limit holds jobs back.
        end: where the next look should begin, if there were more lanes than one takes in.
    """

    jobs: list[Dispatched]
    held_for: float | None = None
    end: Lane | None = None


class _Limit(NamedTuple):
    """The limit's row, locked; and how long its penalty lasts, if it has one."""

    per_second: float | None
    burst: float | None
    concurrency: int | None
    penalised_for: float | None


@dataclass(slots=True)
class _Standing:
    """What the lanes have left, as of one moment; by key, since lanes share it."""

    lanes: dict[Lane, float] = field(default_factory=dict)
    """Those that may have more jobs due, with their weights."""
    tokens: dict[str, float] = field(default_factory=dict)
    places: dict[str, float] = field(default_factory=dict)
    penalties: dict[str, float] = field(default_factory=dict)
    """Seconds for which a key's bucket is closed."""
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    at: datetime | None = None
    end: Lane | None = None

    def take(self, allowances: Sequence[Allowance], started: Iterable[_Started]) -> None:
        """Take away what was dispatched, and the lanes that had no more."""
        jobs: Counter[Lane] = Counter()
        for one in started:
            jobs[one.lane] += 1
            self.places[one.lane.slot_key] -= 1
            self.tokens[one.lane.limit_key] -= one.cost
            self.spent[one.lane.limit_key] += one.cost
        for lane, most, _ in allowances:
            if jobs[lane] < most and self.tokens[lane.limit_key] >= 1:
                del self.lanes[lane]

    def held_for(self, per_second: float | None) -> float | None:
        """Return the seconds until the next lane that is held back may have what it lacks."""
        return min((self._wait(lane, per_second) for lane in self.lanes), default=None)

    def _wait(self, lane: Lane, per_second: float | None) -> float:
        if self.places[lane.slot_key] < 1 or per_second is None:
            return 0.0  # whenever a job ends
        lacking = 1 - self.tokens[lane.limit_key]
        return max(lacking / per_second, self.penalties.get(lane.limit_key, 0.0), 0.0)


class _Started(NamedTuple):
    """A job that was let go, and what it cost."""

    job: Dispatched
    lane: Lane
    cost: float


async def dispatch(
    tx: AsyncSession, contract: type[Contract], most: int, *, behind: Lane = BEGINNING
) -> LimitedBatch | None:
    """Dispatch what the limit of a kind allows, up to ``most`` jobs; ``None`` if it has none.

    Publish them only after the commit, and soon.
    """
    rows = await fetch(tx, _LOCK, {"kind": contract.kind})
    if not rows:
        return None
    limit = _Limit(*rows[0])
    if limit.penalised_for is not None:
        return LimitedBatch([], limit.penalised_for)
    standing = await _look(tx, contract.kind, limit, behind)
    rate = contract.policy.limit
    jobs: list[Dispatched] = []
    for _ in range(_PASSES):
        allowances = allot(
            [Weighed(*one) for one in standing.lanes.items()],
            most - len(jobs),
            tokens=standing.tokens,
            places=standing.places,
            priced=rate is not None and rate.cost is not None,
        )
        if not allowances:
            break
        started = await _start(tx, contract.kind, limit, allowances)
        standing.take(allowances, started)
        jobs += [one.job for one in started]
    if limit.per_second is not None and standing.spent:
        await _spend(tx, contract.kind, standing)
    held_for = standing.held_for(limit.per_second) if len(jobs) < most else None
    return LimitedBatch(in_turn(jobs), held_for, standing.end)


async def _look(tx: AsyncSession, kind: str, limit: _Limit, behind: Lane) -> _Standing:
    counted = limit.concurrency is not None
    parameters = {
        "kind": kind,
        "counted": counted,
        "burst": limit.burst,
        "per_second": limit.per_second,
        **lanes.behind(behind),
    }
    standing = _Standing()
    for *names, number, weight, under_way, tokens, penalty, at in await fetch(
        tx, _LOOK, parameters
    ):
        lane = Lane(*names)
        standing.lanes[lane] = weight
        standing.places[lane.slot_key] = limit.concurrency - under_way if counted else math.inf
        standing.tokens[lane.limit_key] = math.inf if tokens is None else tokens
        if penalty is not None and penalty > 0:
            standing.penalties[lane.limit_key] = penalty
            standing.tokens[lane.limit_key] = min(0.0, tokens)
        standing.at = at
        standing.end = lane if number == lanes.MOST_LANES else None
    return standing


async def _start(
    tx: AsyncSession, kind: str, limit: _Limit, allowances: Sequence[Allowance]
) -> list[_Started]:
    parameters = {
        "kind": kind,
        "tenants": [allowance.lane.tenant for allowance in allowances],
        "limit_keys": [allowance.lane.limit_key for allowance in allowances],
        "slot_keys": [allowance.lane.slot_key for allowance in allowances],
        "mosts": [allowance.most for allowance in allowances],
        "tokens": [float(allowance.tokens) for allowance in allowances],
        "burst": math.inf if limit.burst is None else limit.burst,
        "lapse_seconds": None if limit.per_second is None else LAPSE_SECONDS,
        "seconds": DISPATCH_SECONDS,
    }
    rows = await fetch(tx, _START, parameters)
    return [_Started(Dispatched(*row[:7]), Lane(*row[6:9]), row[9]) for row in rows]


async def _spend(tx: AsyncSession, kind: str, standing: _Standing) -> None:
    keys = list(standing.spent)
    tokens = [standing.tokens[key] for key in keys]
    await tx.execute(_SPEND, {"kind": kind, "keys": keys, "tokens": tokens, "at": standing.at})
