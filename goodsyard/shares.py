"""How much of a backlog's turn each tenant gets, where several have jobs of a kind waiting."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

LEAST, MOST = 0.01, 100.0
"""Weights there are; a tenant without one has 1."""

_SET = text("""
    INSERT INTO goodsyard.share (tenant, weight) VALUES (:tenant, :weight)
    ON CONFLICT (tenant) DO UPDATE SET weight = excluded.weight
""")


async def set_share(tx: AsyncSession, tenant: int, weight: float) -> None:
    """Give a tenant so many turns for each of another's, from the next dispatch on.

    Raises:
        sqlalchemy.exc.IntegrityError: the weight is not between ``LEAST`` and ``MOST``.
    """
    await tx.execute(_SET, {"tenant": tenant, "weight": weight})
