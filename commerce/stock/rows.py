"""Statements over many stock rows at once; the schema's CHECK is the backstop if they oversell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

Sku: TypeAlias = tuple[int, str]
"""A tenant and its SKU."""

# The lock sits above the sort in the plan, so rows are locked in this one order by everybody.
_LOCK = text("""
    SELECT tenant, sku, on_hand - reserved
      FROM commerce.stock
     WHERE (tenant, sku) IN (SELECT * FROM unnest(CAST(:tenants AS int[]), CAST(:skus AS text[])))
     ORDER BY tenant, sku
       FOR NO KEY UPDATE
""")

_CHANGE = text("""
    UPDATE commerce.stock s
       SET on_hand = s.on_hand + c.on_hand, reserved = s.reserved + c.reserved
      FROM unnest(CAST(:tenants AS int[]), CAST(:skus AS text[]),
                  CAST(:on_hand AS bigint[]), CAST(:reserved AS bigint[]))
        AS c(tenant, sku, on_hand, reserved)
     WHERE s.tenant = c.tenant AND s.sku = c.sku
""")


async def lock(tx: AsyncSession, skus: Iterable[Sku]) -> dict[Sku, int]:
    """Lock stock rows in order and return the pieces that are free; an unknown SKU is left out."""
    wanted = sorted(set(skus))
    rows = await tx.execute(
        _LOCK, {"tenants": [t for t, _ in wanted], "skus": [sku for _, sku in wanted]}
    )
    return {(tenant, sku): free for tenant, sku, free in rows}


async def reserve(tx: AsyncSession, pieces: Mapping[Sku, int]) -> None:
    """Set pieces aside; the rows are locked by us and have them."""
    await _change(tx, pieces, on_hand=0, reserved=1)


async def release(tx: AsyncSession, pieces: Mapping[Sku, int]) -> None:
    """Put pieces that were set aside back on the shelf."""
    await _change(tx, pieces, on_hand=0, reserved=-1)


async def take(tx: AsyncSession, pieces: Mapping[Sku, int]) -> None:
    """Hand out pieces that were set aside: they are gone."""
    await _change(tx, pieces, on_hand=-1, reserved=-1)


async def restock(tx: AsyncSession, pieces: Mapping[Sku, int]) -> None:
    """Put pieces that were handed out back on the shelf."""
    await _change(tx, pieces, on_hand=1, reserved=0)


async def _change(
    tx: AsyncSession, pieces: Mapping[Sku, int], *, on_hand: int, reserved: int
) -> None:
    if not pieces:
        return
    await tx.execute(
        _CHANGE,
        {
            "tenants": [tenant for tenant, _ in pieces],
            "skus": [sku for _, sku in pieces],
            "on_hand": [on_hand * count for count in pieces.values()],
            "reserved": [reserved * count for count in pieces.values()],
        },
    )
