"""What limits, a concurrency and shares of others cost a kind that is not itself limited."""

from __future__ import annotations

import statistics
from typing import Any, TypeAlias

from benchmarks.flow.cluster import Cluster, cluster
from benchmarks.flow.jobs import Rated, RatedByTenant, TenAbreast, Work
from benchmarks.processes import BenchmarkError
from benchmarks.yard import Shop

Result: TypeAlias = dict[str, Any]  # JSON

JOBS, QUICK_JOBS = 40_000, 20_000
PAIRS, QUICK_PAIRS = 3, 1
HELD = 50_000
"""Jobs that wait behind limits meanwhile."""

_TENANTS = 20
_KEYS = 100
_HELD_NUMBERS = 10**9
_CALL_SECONDS = "2"

_LIMITS = """
INSERT INTO goodsyard.job_limit (name, per_second, burst, concurrency)
VALUES (%(rated)s, 1, 1, NULL), (%(by_tenant)s, 0.1, 1, NULL), (%(abreast)s, NULL, NULL, 10)
"""
_NO_LIMITS = """
UPDATE goodsyard.job_limit SET per_second = NULL, burst = NULL, concurrency = NULL
"""
_SHARES = """
INSERT INTO goodsyard.share (tenant, weight)
SELECT n, 1 + n %% 3 FROM generate_series(1, %(tenants)s) AS n
"""


def measure(shop: Shop, *, quick: bool) -> Result:
    """Measure pairs of runs, without and with limits in turn, each pair's order the last's turned.

    The ratio is the median of the pairs'.
    """
    jobs = QUICK_JOBS if quick else JOBS
    pairs = []
    for number in range(QUICK_PAIRS if quick else PAIRS):
        order = (False, True) if number % 2 == 0 else (True, False)
        rates = {limited: _rate(shop, jobs, limited=limited) for limited in order}
        pairs.append([rates[False], rates[True]])
    return {
        "jobs": jobs,
        "held": HELD,
        "pairs": pairs,
        "ratio": statistics.median(limited / free for free, limited in pairs),
    }


def _rate(shop: Shop, jobs: int, *, limited: bool) -> float:
    with cluster(shop) as yard:
        if limited:
            yard.start_gateway("--seconds", _CALL_SECONDS)
            yard.execute(
                _LIMITS,
                rated=Rated.kind,
                by_tenant=RatedByTenant.kind,
                abreast=TenAbreast.kind,
            )
            yard.execute(_SHARES, tenants=_TENANTS)
            yard.backlog(Rated, HELD // 2, first=_HELD_NUMBERS)
            yard.backlog(RatedByTenant, HELD // 2, first=_HELD_NUMBERS, tenants=_KEYS)
            yard.backlog(TenAbreast, HELD // 50, first=_HELD_NUMBERS, tenants=_TENANTS)
        yard.execute("ANALYZE goodsyard.job")
        yard.start_all()
        if not limited:
            # The policies' own, which a relay declares at its start.
            yard.execute(_NO_LIMITS)
        yard.backlog(Work, jobs, tenants=_TENANTS)
        yard.await_marks(jobs)
        return _between_marks(yard, jobs)


def _between_marks(yard: Cluster, jobs: int) -> float:
    found = yard.marked(0, _HELD_NUMBERS)
    if len(found) != jobs or len({number for number, _ in found}) != jobs:
        raise BenchmarkError(f"{len(found)} marks of {jobs} jobs")
    return jobs / ((found[-1][1] - found[0][1]) / 1e9)
