"""A kind's backlog, lane by lane: the waiting jobs of one tenant that have the same keys.

What a limit allows or a share is worth is the same for all jobs of a lane. So a dispatch looks at
lanes, not at jobs: one that is held back costs it one probe of the index, however long it is.
"""

from __future__ import annotations

from typing import NamedTuple

MOST_LANES = 250
"""Lanes that one look takes in: some 10 ms; the next look goes on behind the last of them."""


class Lane(NamedTuple):
    """Which lane; ``limit_key`` and ``slot_key`` are as in ``goodsyard.submit.Staged``."""

    tenant: int
    limit_key: str
    slot_key: str


BEGINNING = Lane(-(2**31), "", "")
"""Before all lanes: no tenant has this number."""

_READY = "state = 'waiting' AND waits_for = 0 AND kind = :kind"

WITH_LANES = f"""
    WITH RECURSIVE lane AS (
        (SELECT tenant, limit_key, slot_key, 1 AS number FROM goodsyard.job
          WHERE {_READY}
            AND (tenant, limit_key, slot_key) > (CAST(:after_tenant AS int),
                                                 CAST(:after_limit AS text),
                                                 CAST(:after_slot AS text))
          ORDER BY tenant, limit_key, slot_key LIMIT 1)
        UNION ALL
        SELECT following.tenant, following.limit_key, following.slot_key, lane.number + 1
          FROM lane
         CROSS JOIN LATERAL (
               SELECT tenant, limit_key, slot_key FROM goodsyard.job
                WHERE {_READY} AND (tenant, limit_key, slot_key)
                      > (lane.tenant, lane.limit_key, lane.slot_key)
                ORDER BY tenant, limit_key, slot_key LIMIT 1) AS following
         WHERE lane.number < :most_lanes),
    weighed AS (
        SELECT tenant, limit_key, slot_key, number,
               coalesce(weight, 1) / count(*) OVER (PARTITION BY tenant) AS weight
          FROM lane LEFT JOIN goodsyard.share USING (tenant))
"""  # noqa: S608 - what is put in is the constant above
"""SQL that begins a statement: ``weighed`` are the lanes behind one, with their part in a batch.

Each step is a probe of the index for the next lane ("loose index scan" in the PostgreSQL wiki).
"""


def first_of(lane: str, most: str, only: str = "true") -> str:
    """Return SQL that locks the first due jobs of a lane, urgent ones first, then by their time.

    The index is read in this order, skipping from priority to priority over what isn't due yet, so
    jobs scheduled for next year cost a probe a priority.

    Args:
        lane: what the row of the lane is called.
        most: how many jobs, as SQL.
        only: which of them, as SQL.
    """
    return f"""
        SELECT id, priority, run_at, cost FROM goodsyard.job
         WHERE {_READY} AND tenant = {lane}.tenant AND limit_key = {lane}.limit_key
           AND slot_key = {lane}.slot_key AND run_at <= now() AND {only}
         ORDER BY priority, run_at LIMIT {most} FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - no value gets in here, only SQL of our own


def behind(lane: Lane) -> dict[str, object]:
    """Return the parameters of ``WITH_LANES`` besides the kind."""
    return {
        "after_tenant": lane.tenant,
        "after_limit": lane.limit_key,
        "after_slot": lane.slot_key,
        "most_lanes": MOST_LANES,
    }
