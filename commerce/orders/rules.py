"""What an order may become, and which of many orders the stock suffices for; no rows, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar
from uuid import UUID

Sku = TypeVar("Sku", bound="str | tuple[int, str]")


class OrderStatus(StrEnum):
    """Where an order stands."""

    PENDING = "pending"
    """Accepted, nothing reserved yet."""
    RESERVED = "reserved"
    """Its goods are set aside, its charge is under way."""
    PAID = "paid"
    """Captured and booked, or free; the goods left the stock."""
    REJECTED = "rejected"
    """The stock didn't suffice; nothing was reserved or charged."""
    PAYMENT_FAILED = "payment_failed"
    """Declined; the goods are back in stock."""
    CANCELLED = "cancelled"
    """Called off before it was charged; the goods are back in stock."""
    REFUNDED = "refunded"
    """Paid, and all of it given back."""


FINAL = frozenset(OrderStatus) - {OrderStatus.PENDING, OrderStatus.RESERVED}


def listed_as(status: OrderStatus) -> OrderStatus:
    """Return under which status the index has an order: one under way as pending all the time."""
    return status if status in FINAL else OrderStatus.PENDING


class Line(NamedTuple):
    """One line of an order; several may name the same SKU."""

    sku: str
    quantity: int
    unit_amount: int
    """Minor units for one piece."""


def total_of(lines: Iterable[Line]) -> int:
    """Return what the lines come to, in minor units."""
    return sum(line.quantity * line.unit_amount for line in lines)


def quantities(lines: Iterable[tuple[Sku, int]]) -> Counter[Sku]:
    """Return the pieces of each SKU, summed over lines that share one."""
    needed: Counter[Sku] = Counter()
    for sku, quantity in lines:
        needed[sku] += quantity
    return needed


PLENTY = 20
"""Chunks of orders that may be at work at once, each in need of the same: more than most clusters
have. It decides nothing but whether rows are locked early."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The pieces of each SKU (with its tenant) that one order needs."""

    order_id: UUID
    needs: Mapping[tuple[int, str], int]


def needs_of(demands: Iterable[Demand]) -> Counter[tuple[int, str]]:
    """Return the pieces of each SKU that the orders need together."""
    return quantities(need for demand in demands for need in demand.needs.items())


def is_plenty(needed: Mapping[tuple[int, str], int], free: Mapping[tuple[int, str], int]) -> bool:
    """Tell whether goods won't run out even if as much is taken ``PLENTY`` times at once."""
    return all(free.get(sku, 0) >= PLENTY * quantity for sku, quantity in needed.items())


@dataclass(frozen=True, slots=True)
class Allocation:
    """Which orders get their goods, which don't, and what is to be set aside in all."""

    accepted: frozenset[UUID]
    rejected: frozenset[UUID]
    reserved: Mapping[tuple[int, str], int]


def allocate(demands: Iterable[Demand], free: Mapping[tuple[int, str], int]) -> Allocation:
    """Serve orders one after the other, each whole or not at all, as if each came alone.

    Args:
        demands: in the order in which they are to be served.
        free: pieces on hand and not reserved; a SKU that isn't there has none.
    """
    left = dict(free)
    accepted, rejected = set(), set()
    reserved: Counter[tuple[int, str]] = Counter()
    for demand in demands:
        if all(left.get(sku, 0) >= quantity for sku, quantity in demand.needs.items()):
            accepted.add(demand.order_id)
            for sku, quantity in demand.needs.items():
                left[sku] -= quantity
                reserved[sku] += quantity
        else:
            rejected.add(demand.order_id)
    return Allocation(frozenset(accepted), frozenset(rejected), reserved)
