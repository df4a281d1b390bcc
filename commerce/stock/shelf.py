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


_SET = text("""
    INSERT INTO commerce.stock AS s (tenant, sku, on_hand) VALUES (:tenant, :sku, :on_hand)
    ON CONFLICT (tenant, sku) DO UPDATE SET on_hand = excluded.on_hand
     WHERE s.reserved <= excluded.on_hand
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


async def get_shelf(tx: AsyncSession, tenant: int, sku: str) -> Shelf | None:
    """Return what is on the shelf, or ``None`` for a SKU that was never counted."""
    row = (await tx.execute(_GET, {"tenant": tenant, "sku": sku})).one_or_none()
    return None if row is None else Shelf(*row)
