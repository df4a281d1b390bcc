"""Statements over many stock rows at once; the schema's CHECK is the backstop if they oversell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

Sku: TypeAlias = tuple[int, str]
"""A tenant and its SKU."""

_NOTHING: Mapping[Sku, int] = MappingProxyType({})

# The lock sits above the sort in the plan, so rows are locked in this one order by everybody.
_IN_ORDER = """
     ORDER BY tenant, sku
       FOR NO KEY UPDATE"""

_FREE = """
    SELECT tenant, sku, on_hand - reserved
      FROM commerce.stock
     WHERE (tenant, sku) IN (SELECT * FROM unnest(CAST(:tenants AS int[]), CAST(:skus AS text[])))
"""
_LOOK, _LOCK = text(_FREE), text(f"{_FREE} {_IN_ORDER}")

_CHANGE = text(f"""
    WITH change AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:tenants AS int[]), CAST(:skus AS text[]),
                             CAST(:on_hand AS bigint[]), CAST(:reserved AS bigint[]))
            AS c(tenant, sku, on_hand, reserved)),
    locked AS MATERIALIZED (
        SELECT tenant, sku FROM commerce.stock
         WHERE (tenant, sku) IN (SELECT tenant, sku FROM change)
        {_IN_ORDER})
    UPDATE commerce.stock s
       SET on_hand = s.on_hand + c.on_hand, reserved = s.reserved + c.reserved
      FROM change c JOIN locked USING (tenant, sku)
     WHERE s.tenant = c.tenant AND s.sku = c.sku
""")  # noqa: S608 - as above


async def free(tx: AsyncSession, skus: Iterable[Sku]) -> dict[Sku, int]:
    """Return the pieces that are free just now; an unknown SKU is left out."""
    return await _pieces(tx, _LOOK, skus)


async def lock(tx: AsyncSession, skus: Iterable[Sku]) -> dict[Sku, int]:
    """Lock stock rows in order and return the pieces that are free; an unknown SKU is left out."""
    return await _pieces(tx, _LOCK, skus)


async def _pieces(tx: AsyncSession, statement: TextClause, skus: Iterable[Sku]) -> dict[Sku, int]:
    wanted = sorted(set(skus))
    rows = await tx.execute(
        statement, {"tenants": [t for t, _ in wanted], "skus": [sku for _, sku in wanted]}
    )
    return {(tenant, sku): pieces for tenant, sku, pieces in rows}


async def reserve(tx: AsyncSession, pieces: Mapping[Sku, int]) -> None:
    """Set pieces aside.

    Raises:
        sqlalchemy.exc.IntegrityError: there aren't as many: of rows that aren't locked by us.
    """
    await _change(tx, on_hand={}, reserved=pieces)


async def hand_out(
    tx: AsyncSession, taken: Mapping[Sku, int], released: Mapping[Sku, int] = _NOTHING
) -> None:
    """Hand out pieces that were set aside, and put others back on the shelf."""
    gone = Counter[Sku]()
    gone.subtract(taken)
    no_longer = Counter[Sku](gone)
    no_longer.subtract(released)
    await _change(tx, on_hand=gone, reserved=no_longer)


async def release(tx: AsyncSession, pieces: Mapping[Sku, int]) -> None:
    """Put pieces that were set aside back on the shelf."""
    await hand_out(tx, taken={}, released=pieces)


async def restock(tx: AsyncSession, pieces: Mapping[Sku, int]) -> None:
    """Put pieces that were handed out back on the shelf."""
    await _change(tx, on_hand=pieces, reserved={})


async def _change(
    tx: AsyncSession, *, on_hand: Mapping[Sku, int], reserved: Mapping[Sku, int]
) -> None:
    skus = list(on_hand.keys() | reserved.keys())
    if not skus:
        return
    await tx.execute(
        _CHANGE,
        {
            "tenants": [tenant for tenant, _ in skus],
            "skus": [sku for _, sku in skus],
            "on_hand": [on_hand.get(sku, 0) for sku in skus],
            "reserved": [reserved.get(sku, 0) for sku in skus],
        },
    )
