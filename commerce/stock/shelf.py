"""What is on the shelf, one SKU at a time: counted by people, reserved and taken by the flow."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class Shelf:
    """Pieces of one SKU; those reserved are among those on hand."""

    sku: str
    on_hand: int
    reserved: int


class BelowReservedError(Exception):
    """Fewer pieces were counted than are promised to orders."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(f"{shelf.reserved} pieces of {shelf.sku} are reserved")
        self.shelf = shelf


class UnknownSkuError(Exception):
    """The SKU was never counted, so there is nothing to add to or to take from."""


class AboveMostError(Exception):
    """More pieces than ``MOST_ON_HAND`` would be on hand."""


MOST_ON_HAND = 10**12
"""Pieces of a SKU: a reservation on top of them still fits a bigint a million times over."""

_SET = text("""
    INSERT INTO commerce.stock AS s (tenant, sku, on_hand) VALUES (:tenant, :sku, :on_hand)
    ON CONFLICT (tenant, sku) DO UPDATE SET on_hand = excluded.on_hand
     WHERE s.reserved <= excluded.on_hand
    RETURNING sku, on_hand, reserved
""")

_ADJUST = text("""
    UPDATE commerce.stock SET on_hand = on_hand + :by
     WHERE tenant = :tenant AND sku = :sku AND on_hand + :by BETWEEN reserved AND :most
    RETURNING sku, on_hand, reserved
""")

_GET = text("""
    SELECT sku, on_hand, reserved FROM commerce.stock WHERE tenant = :tenant AND sku = :sku
""")


async def set_on_hand(tx: AsyncSession, tenant: int, sku: str, on_hand: int) -> Shelf:
    """Write a count down; a new SKU comes into being by it.

    Raises:
        BelowReservedError: more pieces are promised to orders than were counted; nothing changed.
    """
    parameters = {"tenant": tenant, "sku": sku, "on_hand": on_hand}
    row = (await tx.execute(_SET, parameters)).one_or_none()
    if row is not None:
        return Shelf(*row)
    shelf = await get_shelf(tx, tenant, sku)
    if shelf is None:
        raise LookupError(f"stock of {sku} went away while it was counted")
    raise BelowReservedError(shelf)


async def adjust(tx: AsyncSession, tenant: int, sku: str, by: int) -> Shelf:
    """Add pieces to what is on hand, or take some away: whatever orders do meanwhile is kept.

    Raises:
        UnknownSkuError: the SKU was never counted.
        BelowReservedError: fewer would be left than are promised to orders; nothing changed.
        AboveMostError: more would be there than ``MOST_ON_HAND``; nothing changed.
    """
    parameters = {"tenant": tenant, "sku": sku, "by": by, "most": MOST_ON_HAND}
    row = (await tx.execute(_ADJUST, parameters)).one_or_none()
    if row is not None:
        return Shelf(*row)
    shelf = await get_shelf(tx, tenant, sku)
    if shelf is None:
        raise UnknownSkuError(sku)
    raise AboveMostError(sku) if by > 0 else BelowReservedError(shelf)


async def get_shelf(tx: AsyncSession, tenant: int, sku: str) -> Shelf | None:
    """Return what is on the shelf, or ``None`` for a SKU that was never counted."""
    row = (await tx.execute(_GET, {"tenant": tenant, "sku": sku})).one_or_none()
    return None if row is None else Shelf(*row)
