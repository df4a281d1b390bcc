"""How exactly a rate is held at the gateway, while workers and relays stop, die and come back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.flow import laws
from benchmarks.flow.cluster import Cluster, cluster
from benchmarks.flow.jobs import Call, Rated, RatedByCost, RatedByTenant
from benchmarks.yard import Shop
from goodsyard.contracts import Rate
from goodsyard.limited import LAPSE_SECONDS

Result: TypeAlias = dict[str, Any]  # JSON

SECONDS, QUICK_SECONDS = 24, 12
"""As many as the backlog of each kind is worth."""

FROZEN_SECONDS = 3.0

_TENANTS = 4
_COSTS = (0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class _Arm:
    """One limited kind, and the numbers of its jobs."""

    name: str
    kind: type[Call]
    first: int
    jobs: int

    @property
    def rate(self) -> Rate:
        limit = self.kind.policy.limit
        assert limit is not None  # noqa: S101 - for the type checker: those below all have one
        return limit


def measure(shop: Shop, *, quick: bool) -> Result:
    """Run the three limited kinds at once through all that may happen to their processes."""
    seconds = QUICK_SECONDS if quick else SECONDS
    arms = _arms(seconds)
    with cluster(shop) as yard:
        yard.start_gateway("--marks")
        yard.start_all()
        for arm in arms:
            _fill(yard, arm)
        total = sum(arm.jobs for arm in arms)
        yard.wait("calls have arrived", lambda: int(bool(yard.marked(0, total))), 1)
        faults = _disturb(yard, seconds)
        yard.wait("calls have arrived", lambda: len({n for n, _ in yard.marked(0, total)}), total)
        began = yard.marked(0, total)[0][1]
        return {
            "seconds": seconds,
            "faults": [
                {"what": what, "from": (a - began) / 1e9, "to": (b - began) / 1e9}
                for what, a, b in faults
            ],
            "kinds": {arm.name: _judge(yard, arm, began) for arm in arms},
        }


def _arms(seconds: int) -> list[_Arm]:
    arms: list[_Arm] = []
    for name, kind, jobs in (
        ("all together", Rated, 50 * seconds),
        ("by tenant", RatedByTenant, 10 * seconds * _TENANTS),
        ("by cost", RatedByCost, 45 * seconds),
    ):
        arms.append(_Arm(name, kind, sum(arm.jobs for arm in arms), jobs))
    return arms


def _fill(yard: Cluster, arm: _Arm) -> None:
    tenants = _TENANTS if arm.kind is RatedByTenant else 1
    yard.backlog(arm.kind, arm.jobs, first=arm.first, tenants=tenants)
    if arm.kind is RatedByCost:
        yard.execute(
            "UPDATE goodsyard.job SET cost = (%(costs)s::real[])"
            "[1 + (payload->>'number')::int %% 3] WHERE kind = %(kind)s",
            costs=list(_COSTS),
            kind=arm.kind.kind,
        )


def _disturb(yard: Cluster, seconds: int) -> list[tuple[str, int, int]]:
    """Stop a worker, kill another and then a relay; return what was done from when to when."""
    step = seconds / 6
    faults = []
    time.sleep(step)
    begun = time.monotonic_ns()
    yard.freeze("node-0")
    try:
        time.sleep(FROZEN_SECONDS)
    finally:
        yard.thaw("node-0")
    faults.append(("worker stopped", begun, time.monotonic_ns()))
    for what, name, start, number in (
        ("worker killed", "node-1", yard.start_node, 1),
        ("relay killed", "relay-0", yard.start_relay_number, 0),
    ):
        time.sleep(step)
        begun = time.monotonic_ns()
        yard.kill(name)
        start(number)
        faults.append((what, begun, time.monotonic_ns()))
    return faults


def _judge(yard: Cluster, arm: _Arm, began: int) -> Result:
    """Say how the law was kept; of a rate by tenant, by the one with which it was kept worst."""
    keys = _TENANTS if arm.kind is RatedByTenant else 1
    found = yard.marked(arm.first, arm.first + arm.jobs)
    worst: list[Result] = []
    for key in range(keys):
        of_key = [(n, moment) for n, moment in found if (n - arm.first) % keys == key]
        starts = [(moment - began) / 1e9 for _, moment in of_key]
        costs = [_COSTS[n % 3] if arm.kind is RatedByCost else 1.0 for n, _ in of_key]
        worst.append(
            {
                "excess": laws.excess(starts, costs, arm.rate, LAPSE_SECONDS),
                "ahead": laws.ahead(starts, costs, arm.rate.per_second),
                "reached": laws.reached(starts, costs, arm.rate),
                "starts": [round(start, 3) for start in starts],
                "costs": costs if arm.kind is RatedByCost else [],
            }
        )
    shown = worst[0]
    return {
        **shown,
        "rate": arm.rate.rate,
        "per_second": arm.rate.per_second,
        "burst": arm.rate.capacity,
        "calls": len(found),
        "excess": max(one["excess"] for one in worst),
        "ahead": max(one["ahead"] for one in worst),
        "reached": min(one["reached"] for one in worst),
    }
