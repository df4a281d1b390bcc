"""How many calls the gateway sees at once under a concurrency, through the death of a worker."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, TypeAlias

from benchmarks.flow import laws
from benchmarks.flow.cluster import Cluster, cluster
from benchmarks.flow.jobs import OneByOne, TenAbreast
from benchmarks.yard import Shop

Result: TypeAlias = dict[str, Any]  # JSON

CALL_SECONDS = 0.2
SECONDS, QUICK_SECONDS = 16, 10
"""What the backlog is worth at ten calls at a time."""

_KILL_AFTER = 3.0
_RUNNING = "SELECT count(*) FROM goodsyard.job WHERE state = 'running'"
_BUSIEST = """
SELECT w.node FROM goodsyard.worker w LEFT JOIN goodsyard.job j ON j.claimed_by = w.id
 GROUP BY w.node ORDER BY count(j.id) DESC LIMIT 1
"""
_TOGETHER = int(1 / CALL_SECONDS) * 10
_ORDERS = 10
_EACH = int(1 / CALL_SECONDS)
_BY_ORDER = 10**9
"""The first number of those by key."""


def measure(shop: Shop, *, quick: bool) -> Result:
    """Run both kinds at once, and kill one of the nodes that carry them out."""
    seconds = QUICK_SECONDS if quick else SECONDS
    together, by_order = _TOGETHER * seconds, _EACH * seconds * _ORDERS // 2
    with cluster(shop) as yard:
        yard.start_gateway("--marks", "--seconds", str(CALL_SECONDS))
        yard.start_all()
        yard.backlog(TenAbreast, together)
        yard.backlog(OneByOne, by_order, first=_BY_ORDER)
        yard.execute(
            "UPDATE goodsyard.job SET slot_key = (payload->>'number')::bigint %% %(orders)s"
            " WHERE kind = %(kind)s",
            orders=_ORDERS,
            kind=OneByOne.kind,
        )
        yard.wait("calls have arrived", lambda: int(bool(yard.marked(0, together))), 1)
        time.sleep(_KILL_AFTER)
        name, number = _busiest(yard)
        killed = time.monotonic_ns()
        yard.kill(name)
        yard.start_node(number)
        for first, jobs in ((0, together), (_BY_ORDER, by_order)):
            _await_all(yard, first, jobs)
        return _judge(yard, together, by_order, killed)


def _busiest(yard: Cluster) -> tuple[str, int]:
    """Return the name and the number of the node that has most calls out."""
    yard.wait("jobs are running", lambda: yard.number(_RUNNING), 1)
    [node] = yard.row(_BUSIEST)
    name = str(node).partition("@")[0]
    return name, int(name.rpartition("-")[2])


def _await_all(yard: Cluster, first: int, jobs: int) -> None:
    yard.wait(
        "jobs have called", lambda: len({n for n, _ in yard.marked(first, first + jobs)}), jobs
    )


def _judge(yard: Cluster, together: int, by_order: int, killed: int) -> Result:
    all_calls = yard.marked(0, together)
    began = all_calls[0][1]
    calls = [(moment - began) / 1e9 for _, moment in all_calls]
    steps = laws.at_once(calls, CALL_SECONDS)
    by_key: defaultdict[int, list[float]] = defaultdict(list)
    keyed = yard.marked(_BY_ORDER, _BY_ORDER + by_order)
    for number, moment in keyed:
        by_key[number % _ORDERS].append((moment - began) / 1e9)
    return {
        "call_seconds": CALL_SECONDS,
        "limit": 10,
        "most": max(out for _, out in steps),
        "most_by_key": max(
            out for of_key in by_key.values() for _, out in laws.at_once(of_key, CALL_SECONDS)
        ),
        "killed": (killed - began) / 1e9,
        "free_again": max(_seconds_to_repeats(found, killed) for found in (all_calls, keyed)),
        "repeated": sum(
            len(found) - len({number for number, _ in found}) for found in (all_calls, keyed)
        ),
        "steps": [[round(moment, 3), out] for moment, out in steps],
    }


def _seconds_to_repeats(calls: list[tuple[int, int]], killed: int) -> float:
    """Return how long after the kill the last of the calls that died with it was made again."""
    seen: set[int] = set()
    repeats = [0.0]
    for number, moment in calls:
        if number in seen:
            repeats.append((moment - killed) / 1e9)
        seen.add(number)
    return max(repeats)
